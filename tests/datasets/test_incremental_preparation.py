"""A second preparation does only what has changed, and the store is always what its sources say."""

import os
import shutil
from pathlib import Path

import native_trees as native
import nibabel
import numpy as np
import pytest

from dsmseg.datasets import Preparation, Settings, Store, choose_datasets, preparation, prepare, read_description
from dsmseg.errors import InputError, OutputError

CASES = ("word_0001", "word_0002", "word_0003")
SETTINGS = Settings(spacing_mm=(4.0, 4.0, 4.0))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pristine")
    native.write_word(root, {case: native.make_body(native.seed_of(case), "abdomen") for case in CASES})
    return root


@pytest.fixture
def tree(pristine, tmp_path) -> Path:
    return shutil.copytree(pristine, tmp_path / "tree")


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


def run(tree, store, settings=SETTINGS, **options) -> Preparation:
    return prepare(choose_datasets(tree), store, settings, **options)


def labels_of(tree, case) -> Path:
    (path,) = tree.rglob(f"labels*/{case}.nii.gz")
    return path


def rewrite(path, change) -> None:
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(change(np.asarray(image.dataobj).copy()), image.affine), path)


def contents(store) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_what_has_not_changed_is_not_even_read(tree, store, monkeypatch) -> None:
    assert run(tree, store).datasets[0].written == CASES
    before = contents(store)

    def fail(*_):
        raise AssertionError("was read")

    monkeypatch.setattr(preparation, "load_case", fail)
    monkeypatch.setattr(preparation, "_sources", fail)
    (again,) = run(tree, store).datasets
    assert (again.written, again.kept) == ((), CASES)
    assert contents(store) == before


def test_a_changed_label_redoes_its_case_alone(tree, store) -> None:
    run(tree, store)
    liver = Store.open(store).cases()[1].record.voxels[6]
    rewrite(labels_of(tree, CASES[1]), lambda ids: np.where(ids == 1, 0, ids).astype(np.uint8))
    (again,) = run(tree, store).datasets
    assert (again.written, again.kept) == ((CASES[1],), (CASES[0], CASES[2]))
    assert liver > 0
    assert Store.open(store).cases()[1].record.voxels[6] == 0


def test_a_file_replaced_by_an_older_one_of_the_same_size_is_seen(tree, store) -> None:
    (image,) = tree.rglob("images*/word_0002.nii.gz")
    plain = image.with_suffix("")
    nibabel.save(nibabel.load(image), plain)
    image.unlink()
    run(tree, store)
    state = plain.stat()
    content = bytearray(plain.read_bytes())
    content[-2000:] = bytes(2000)
    plain.write_bytes(content)
    os.utime(plain, ns=(state.st_atime_ns - 10**15, state.st_mtime_ns - 10**15))
    assert run(tree, store).datasets[0].written == (CASES[1],)


def test_files_that_were_only_touched_or_copied_are_kept(tree, store, tmp_path) -> None:
    run(tree, store)
    before = contents(store)
    for path in tree.rglob("*.nii.gz"):
        path.touch()
    assert run(tree, store).datasets[0].kept == CASES
    moved = shutil.copytree(tree, tmp_path / "elsewhere" / "deeper")
    assert run(moved, store).datasets[0].kept == CASES
    after = contents(store)
    assert {name: one for name, one in after.items() if not name.endswith("case.json")} == {
        name: one for name, one in before.items() if not name.endswith("case.json")
    }


def test_a_case_that_became_unusable_is_taken_out_and_told(tree, store) -> None:
    run(tree, store)
    labels_of(tree, CASES[0]).write_bytes(b"nothing")
    prepared = run(tree, store)
    (finding,) = prepared.datasets[0].left_out
    assert (finding.case, finding.check) == (CASES[0], "unreadable")
    assert [one.record.case for one in Store.open(store).cases()] == list(CASES[1:])
    shutil.rmtree(store)
    run(tree, store)
    assert [one.record.case for one in Store.open(store).cases()] == list(CASES[1:])


def test_a_case_that_is_left_out_is_taken_with_accept_and_its_record_says_so(tree, store) -> None:
    rewrite(labels_of(tree, CASES[2]), np.zeros_like)
    (finding,) = run(tree, store).datasets[0].left_out
    assert (finding.case, finding.check) == (CASES[2], "empty")
    assert run(tree, store, accept=["empty"]).datasets[0].written == (CASES[2],)
    assert "empty" in Store.open(store).cases()[2].record.accepted[0]


def test_a_case_that_the_folder_no_longer_has_is_named_and_kept(tree, store) -> None:
    run(tree, store)
    for path in tree.rglob("word_0001.nii.gz"):
        path.unlink()
    assert run(tree, store).datasets[0].gone == (CASES[0],)
    assert len(Store.open(store).cases()) == 3


def test_a_changed_description_redoes_all_and_a_changed_note_nothing(tree, store, tmp_path) -> None:
    packaged = Path(preparation.__file__).with_name("public") / "word.toml"
    own = tmp_path / "word.toml"
    shutil.copy(packaged, own)
    run(tree, store)
    own.write_text(own.read_text().replace("Adrenal glands are merged.", "Both adrenal glands are one."))
    assert prepare(choose_datasets(tree, description=own), store, SETTINGS).datasets[0].kept == CASES
    own.write_text(own.read_text().replace('"Liver" = ["liver"]\n', ""))
    assert read_description(own).name == "word"
    assert prepare(choose_datasets(tree, description=own), store, SETTINGS).datasets[0].written == CASES
    assert all(6 not in one.record.annotated for one in Store.open(store).cases())


def test_a_second_preparation_at_the_same_time_is_refused(tree, store) -> None:
    def meanwhile(*_):
        with pytest.raises(InputError, match="is being prepared by another process"):
            run(tree, store)

    run(tree, store, progress=meanwhile)
    assert len(Store.open(store).cases()) == 3


def test_a_store_that_cannot_be_written_is_one_line_and_loses_nothing(tree, store, monkeypatch) -> None:
    run(tree, store)
    before = contents(store)
    rewrite(labels_of(tree, CASES[1]), lambda ids: np.where(ids == 2, 0, ids).astype(np.uint8))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preparation, "write_case", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        run(tree, store)
    assert "\n" not in str(caught.value)
    assert contents(store) == before


def test_intensities_are_clipped_to_the_window_and_statistics_are_of_the_whole_range(tree, store) -> None:
    run(tree, store, Settings(spacing_mm=(4.0, 4.0, 4.0), hu_window=(-100.0, 200.0)))
    for case in Store.open(store).cases():
        assert (case.image[:].min(), case.image[:].max()) == (-100, 200)
        assert case.record.hu["percentile_0.5"] < -100


def test_a_case_that_was_accepted_once_is_not_kept_by_a_run_that_does_not_accept_it(tree, store) -> None:
    rewrite(labels_of(tree, CASES[2]), np.zeros_like)
    run(tree, store, accept=["empty"])
    (again,) = run(tree, store).datasets
    assert (again.kept, [one.check for one in again.left_out]) == (CASES[:2], ["empty"])
    assert len(Store.open(store).cases()) == 2


@pytest.mark.parametrize("name", ["image.b2nd", "labels.b2nd", "sampling.safetensors"])
def test_a_case_that_lost_a_file_is_prepared_again(tree, store, name) -> None:
    run(tree, store)
    before = contents(store)
    (store / "word" / CASES[1] / name).unlink()
    assert run(tree, store).datasets[0].written == (CASES[1],)
    assert contents(store) == before


def test_another_patient_under_the_same_id_and_size_is_told_apart(pristine, store, tmp_path) -> None:
    trees = [tmp_path / name for name in ("a", "b")]
    for seed, tree in enumerate(trees):  # both are there before the first is prepared
        for path in sorted(pristine.rglob("word_0001.nii.gz")):
            target = tree / path.relative_to(pristine).with_suffix("")
            target.parent.mkdir(parents=True)
            image = nibabel.load(path)
            shifted = np.roll(np.asarray(image.dataobj), seed, axis=1)
            nibabel.save(nibabel.Nifti1Image(shifted, image.affine), target)
    assert run(trees[0], store).datasets[0].written == ("word_0001",)
    assert run(trees[1], store).datasets[0].written == ("word_0001",)


def test_a_damaged_case_is_prepared_again_and_never_stops_the_others(tree, store) -> None:
    run(tree, store)
    before = contents(store)
    for case, name in zip(CASES, ("sampling.safetensors", "case.json", "image.b2nd"), strict=True):
        (store / "word" / case / name).write_bytes(b"damaged")
    assert run(tree, store).datasets[0].written == CASES
    assert contents(store) == before
