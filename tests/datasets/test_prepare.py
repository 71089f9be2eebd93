"""The store is what its sources say, whatever happens to them or to the disk, and where each voxel lies in mm."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_trees import (
    ORGANS,
    SETTINGS,
    SHAPE,
    change_labels,
    contents,
    image_path,
    label_path,
    save,
    small_body,
    write_btcv,
)

from dsmseg.datasets import Settings, Store, by_name, choose_datasets, preparation, prepare
from dsmseg.datasets import verify as verify_datasets
from dsmseg.errors import InputError, OutputError
from dsmseg.taxonomy import find

CASES = ("0001", "0002", "0003")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_btcv(tmp_path_factory.mktemp("pristine"), CASES)


@pytest.fixture
def tree(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "tree")


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def run(tree, store, **options):
    (one,) = prepare(choose_datasets(tree), store, options.pop("settings", SETTINGS), **options).datasets
    return one


def afresh(tree, tmp_path):
    """Give the store of a run that begins anew."""
    folder = tmp_path / "afresh"
    shutil.rmtree(folder, ignore_errors=True)
    run(tree, folder)
    return contents(folder)


def grown_old(tree):
    """Wait until what is there is older than what comes."""
    time.sleep(0.02)


def labels_in(store, case="0002"):
    return Store.open(store).read_case("btcv", case).codes[:]


# --- what is written -------------------------------------------------------------------------------------------------


def test_every_organ_lies_where_it_lay_in_mm_and_is_as_large(tree, store):
    run(tree, store, settings=Settings(spacing_mm=(2.0, 2.0, 2.0)))
    for case in Store.open(store).cases():
        affine = np.array(case.record.affine)
        assert np.allclose(np.diag(affine)[:3], 2.0)
        for name, (_, box, _) in ORGANS.items():
            mask = case.mask(find(name).id)
            assert mask.sum() == case.record.voxels[find(name).id]
            center = affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]
            truth = [4.0 * (side.start + side.stop - 1) / 2 for side in box]
            assert center == pytest.approx(truth, abs=1.0)
            volume = 64.0 * np.prod([side.stop - side.start for side in box])
            assert mask.sum() * 8.0 == pytest.approx(volume, rel=0.1)


def test_what_is_kept_is_the_body_and_a_margin_and_nothing_labelled_is_cut_off(tree, store):
    _, labels = small_body(2)
    labels[0, 0, 0] = 6  # a labelled voxel in the corner, in air
    save(label_path(tree, "0002"), labels)
    run(tree, store)
    whole, cut = (Store.open(store).read_case("btcv", case) for case in ("0002", "0001"))
    assert whole.record.shape[2] == cut.record.shape[2] == SHAPE[2]
    assert whole.mask(6).sum() == (labels == 6).sum()
    assert all(size < full for size, full in zip(cut.record.shape[:2], SHAPE[:2], strict=True))
    body = np.flatnonzero((small_body(1)[0] > -500).any((1, 2)))
    assert cut.record.shape[0] == body[-1] - body[0] + 1 + 2 * round(9 / 4)
    for case in (whole, cut):
        assert case.image[:].shape == case.codes[:].shape == case.record.shape


def test_locations_lie_on_their_class_and_each_class_that_is_there_has_some(tree, store):
    run(tree, store, settings=Settings(spacing_mm=(2.0, 2.0, 2.0)))
    for case in Store.open(store).cases():
        for class_id, voxels in case.record.voxels.items():
            places = case.locations(class_id)
            assert len(places) == min(voxels, preparation.MOST_LOCATIONS)
            assert case.mask(class_id)[tuple(places.T)].all()
            assert len({tuple(place) for place in places.tolist()}) == len(places)
        assert case.locations(44).shape == (0, 3)


def test_the_same_files_give_the_same_bytes_at_another_time_in_another_place(tree, store, tmp_path):
    run(tree, store)
    moved = shutil.copytree(tree, tmp_path / "another" / "place")
    for path in moved.rglob("*.nii.gz"):
        os.utime(path, (10**9, 10**9))
    run(moved, tmp_path / "other store")
    assert contents(tmp_path / "other store") == contents(store)


def test_the_order_in_which_cases_come_makes_no_difference(tree, store, tmp_path):
    for case in reversed(CASES):
        some = tmp_path / "some"
        for path in (image_path, label_path):
            path(some, case).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path(tree, case), path(some, case))
        run(some, store)
    assert contents(store) == afresh(tree, tmp_path)


def test_every_record_is_the_same_document_twice(tree, store):
    run(tree, store)
    for path in store.glob("btcv/*/case.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["dataset"] == "btcv"
        assert {one["name"] for one in content["sources"]} == {"image", "labels"}
        assert content["description"] == preparation.description_hash(by_name("btcv"))


def test_a_store_within_the_data_s_own_folder_is_not_taken_for_data(tree):
    assert run(tree, tree / "store").written == CASES
    before = contents(tree / "store")
    assert run(tree, tree / "store").kept == CASES
    assert contents(tree / "store") == before


def test_data_sets_share_a_store_and_do_not_touch_each_other(tree, store, tmp_path):
    run(tree, store)
    before = contents(store)
    hu, labels = small_body(9)
    save(tmp_path / "Task09_Spleen" / "imagesTr" / "spleen_9.nii.gz", hu)
    save(tmp_path / "Task09_Spleen" / "labelsTr" / "spleen_9.nii.gz", (labels == 1).astype(np.uint8))
    one = run(tmp_path / "Task09_Spleen", store)
    assert (one.name, one.written, one.gone) == ("msd_spleen", ("spleen_9",), ())
    assert {
        name: content for name, content in contents(store).items() if "btcv" in name or name == "store.json"
    } == before
    assert run(tree, store).gone == ()


def test_copies_in_the_store_are_told_across_data_sets(tree, store, tmp_path):
    run(tree, store)
    hu, labels = small_body(2)
    save(tmp_path / "Task09_Spleen" / "imagesTr" / "spleen_2.nii.gz", hu)
    save(tmp_path / "Task09_Spleen" / "labelsTr" / "spleen_2.nii.gz", (labels == 1).astype(np.uint8))
    told = prepare(choose_datasets(tmp_path / "Task09_Spleen"), store, SETTINGS).copies
    assert [pair[:2] for pair in told] == [("btcv/0002", "msd_spleen/spleen_2")]


# --- what is left out ------------------------------------------------------------------------------------------------


def with_labels(tree, change):
    labels = np.asanyarray(nibabel.load(label_path(tree, "0002")).dataobj)
    save(label_path(tree, "0002"), change(labels))


BREAKS = {
    "a cut image": ("unreadable", lambda tree: os.truncate(image_path(tree, "0002"), 3000)),
    "labels of another size": ("grid", lambda tree: with_labels(tree, lambda labels: labels[1:])),
    "labels elsewhere": (
        "grid",
        lambda tree: save(label_path(tree, "0002"), small_body(2)[1], np.diag([4, 4, 4.4, 1.0])),
    ),
    "an unknown id": ("labels", lambda tree: with_labels(tree, lambda labels: np.where(labels == 6, 77, labels))),
    "no labels": ("empty", lambda tree: with_labels(tree, np.zeros_like)),
    "raw values": ("intensities", lambda tree: save(image_path(tree, "0002"), small_body(2)[0] * 3 + 500)),
    "mirrored": (
        "orientation",
        lambda tree: [
            save(path(tree, "0002"), np.flip(array, 0))
            for path, array in zip((image_path, label_path), small_body(2), strict=True)
        ],
    ),
    "a negative label": ("unreadable", lambda tree: with_labels(tree, lambda labels: -labels.astype(np.int16))),
    "halves of labels": ("unreadable", lambda tree: with_labels(tree, lambda labels: labels * np.float32(0.5))),
}


@pytest.mark.parametrize("name", list(BREAKS))
@pytest.mark.parametrize("before", [False, True])
def test_a_case_that_cannot_be_used_is_told_once_and_is_not_in_the_store_and_the_others_are(tree, store, name, before):
    if before:
        run(tree, store)
    check, damage = BREAKS[name]
    grown_old(tree)
    damage(tree)
    one = run(tree, store)
    assert [(finding.case, finding.check) for finding in one.left_out] == [("0002", check)]
    assert "\n" not in one.left_out[0].line
    assert one.left_out[0].mend
    assert (one.kept if before else one.written) == ("0001", "0003")
    assert [case.record.case for case in Store.open(store).cases()] == ["0001", "0003"]
    assert not any(path.name.startswith(".") and path.name != ".lock" for path in store.rglob("*"))


def test_a_case_that_was_mended_is_taken(tree, store, tmp_path, pristine):
    BREAKS["a cut image"][1](tree)
    run(tree, store)
    shutil.copy(image_path(pristine, "0002"), image_path(tree, "0002"))
    assert run(tree, store).written == ("0002",)
    assert contents(store) == afresh(pristine, tmp_path)


# --- what changes under way ------------------------------------------------------------------------------------------


def changing(monkeypatch, change, case="0002"):
    """Let ``change`` happen to the files right after they were read."""
    load = preparation.load_case

    def loaded(files, *arguments):
        result = load(files, *arguments)
        if files.id == case:
            change()
        return result

    monkeypatch.setattr(preparation, "load_case", loaded)


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_labels_that_change_while_their_case_is_prepared_are_prepared_again(tree, store, tmp_path, monkeypatch, delay):
    def change():
        time.sleep(delay)
        change_labels(tree, "0002")

    with monkeypatch.context() as patch:
        changing(patch, change)
        run(tree, store)
    run(tree, store)
    assert contents(store) == afresh(tree, tmp_path)


def test_a_file_that_vanishes_before_it_is_read_costs_its_case_alone(tree, store, monkeypatch):
    load = preparation.load_case

    def loaded(files, *arguments):
        if files.id == "0002":
            label_path(tree, "0002").unlink()
        return load(files, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "load_case", loaded)
        one = run(tree, store)
    assert one.written == ("0001", "0003")
    assert [(finding.case, finding.check) for finding in one.left_out] == [("0002", "unreadable")]


def test_a_file_that_vanishes_once_it_was_read_costs_nothing(tree, store, monkeypatch):
    with monkeypatch.context() as patch:
        changing(patch, label_path(tree, "0002").unlink)
        one = run(tree, store)
    assert (one.written, one.left_out) == (CASES, ())
    assert run(tree, store).gone == ("0002",)


def test_a_link_that_leads_nowhere_any_more_takes_its_case_out_and_no_other(tree, store, tmp_path):
    (tmp_path / "disk").mkdir()
    target = tmp_path / "disk" / "labels.nii.gz"
    label_path(tree, "0002").rename(target)
    label_path(tree, "0002").symlink_to(target)
    assert run(tree, store).written == CASES
    target.unlink()
    one = run(tree, store)
    assert one.kept == ("0001", "0003")
    assert [(finding.case, finding.check) for finding in one.left_out] == [("0002", "unreadable")]
    assert [case.record.case for case in Store.open(store).cases()] == ["0001", "0003"]


def test_a_link_to_nowhere_is_a_finding_of_verify(tree):
    label_path(tree, "0002").unlink()
    label_path(tree, "0002").symlink_to(tree / "nowhere")
    (one,) = verify_datasets(tree, choose_datasets(tree))
    assert [(finding.case, finding.check) for finding in one.findings] == [("0002", "unreadable")]


@pytest.mark.parametrize("ahead", [3600.0, 14 * 3600.0])
def test_a_change_is_seen_though_the_old_file_claimed_to_come_from_the_future(tree, store, tmp_path, ahead):
    # As an archive from another time zone unpacks, or a disk of another machine whose clock is ahead.
    path = label_path(tree, "0002")
    plain = path.with_suffix("")
    save(plain, small_body(2)[1])
    path.unlink()
    later = time.time() + ahead
    os.utime(plain, (later, later))
    run(tree, store)
    assert run(tree, store).kept == CASES
    labels = small_body(2)[1]
    labels[22:24, 15:17, 18:20] = 0
    save(plain, labels)
    assert plain.stat().st_mtime < later
    run(tree, store)
    assert contents(store) == afresh(tree, tmp_path)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(("touch", "change", "restore", "swap", "drop", "damage", "run")), max_size=7))
def test_after_any_changes_the_store_is_that_of_a_run_that_begins_anew(pristine, tmp_path_factory, steps):
    tmp_path = tmp_path_factory.mktemp("changes")
    tree, store = shutil.copytree(pristine, tmp_path / "tree"), tmp_path / "store"
    run(tree, store)
    for number, step in enumerate(steps):
        case, other = CASES[number % 3], CASES[(number + 1) % 3]
        path = label_path(tree, case)
        if step == "touch":
            path.touch()
        elif step == "change":
            save(path, np.roll(small_body(int(case))[1], number % 2, 2))
        elif step == "restore":
            shutil.copy2(label_path(pristine, case), path)
        elif step == "swap":
            content = image_path(tree, case).read_bytes()
            image_path(tree, case).write_bytes(image_path(tree, other).read_bytes())
            image_path(tree, other).write_bytes(content)
        elif step == "drop":
            shutil.rmtree(store / "btcv" / case, ignore_errors=True)
        elif step == "damage":
            path.write_bytes(b"nothing")
        else:
            run(tree, store)
    run(tree, store)
    assert contents(store) == afresh(tree, tmp_path)


# --- remains, locks, disks -------------------------------------------------------------------------------------------


def test_what_a_killed_run_left_is_taken_away_wherever_it_was_stopped(tree, store, tmp_path):
    run(tree, store)
    expected = contents(store)
    folder = store / "btcv"
    (folder / ".0123abcd.0004").mkdir()
    (folder / ".0123abcd.0004" / "image.b2nd").write_bytes(b"half")
    shutil.copytree(folder / "0001", folder / ".89abcdef.0001")  # written, not yet in place
    (folder / "0002").rename(folder / ".01234567.old.0002")  # put aside, the new one not yet in place
    (store / ".fedcba98.store.json").write_text("{")
    assert run(tree, store).written == ("0002",)
    assert contents(store) == expected
    assert {path.name for path in store.rglob(".*")} == {".lock"}


def test_files_of_others_in_a_store_are_left_alone(tree, store):
    run(tree, store)
    notes = [store / "notes.txt", store / "btcv" / "readme", store / ".git" / "config", store / "btcv" / ".notes"]
    for path in notes:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    run(tree, store)
    assert all(path.read_text() == "mine" for path in notes)


def test_a_lock_that_cannot_be_taken_is_one_line(tree, store):
    run(tree, store)
    (store / ".lock").unlink()
    (store / ".lock").mkdir()
    with pytest.raises((InputError, OutputError)) as caught:
        run(tree, store)
    assert "\n" not in str(caught.value)
    assert str(store) in str(caught.value)


def test_a_lock_that_a_dead_process_left_does_not_keep_the_next_out(tree, store):
    run(tree, store)
    assert (store / ".lock").exists()
    assert run(tree, store).kept == CASES


def limited(tree, store, kind, amount):
    """Run the command with a limit of the system, as a full disk or a small machine sets one."""
    code = (
        "import resource, sys\n"
        "from dsmseg import cli, datasets, inference\n"
        "import blosc2, nibabel, SimpleITK\n"
        f"resource.setrlimit(resource.{kind}, ({amount}, resource.RLIM_INFINITY))\n"
        f"sys.argv = ['dsmseg', 'datasets', 'prepare', {str(tree)!r}, '-o', {str(store)!r}, '--spacing', '4', "
        "'--workers', '1']\n"
        "cli.main()\n"
    )
    return subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


def smooth(tree):
    """Make images that take no space, so that other files are the largest."""
    for case in CASES:
        save(image_path(tree, case), np.where(small_body(int(case))[0] < -500, -1000, 60).astype(np.int16))


@pytest.mark.parametrize("largest", ["image", "locations"])
def test_a_disk_that_is_full_is_one_line_and_leaves_no_half_a_case(tree, store, largest):
    if largest == "locations":
        smooth(tree)
    result = limited(tree, store, "RLIMIT_FSIZE", 4096)
    assert "Traceback" not in result.stderr
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("dsmseg: ")
    assert str(store) in last
    assert os.strerror(errno.EFBIG) in last or "written" in last
    assert list(store.glob("btcv/*/case.json")) == []
    assert not [path for path in store.rglob("*") if path.name.startswith(".") and path.name != ".lock"]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="this system limits no memory")
def test_an_absurd_label_is_told_as_that_and_takes_no_memory(tree, store):
    with_labels(
        tree,
        lambda labels: np.where(np.arange(labels.size).reshape(labels.shape) == 999, 2 * 10**9, labels.astype("i4")),
    )
    result = limited(tree, store, "RLIMIT_AS", 6 << 30)
    assert "Traceback" not in result.stderr
    assert "btcv 0002: labels: its labels hold 2000000000." in result.stdout
    assert len(list(store.glob("btcv/*/case.json"))) == 2
