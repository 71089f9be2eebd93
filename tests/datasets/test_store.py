"""What a store holds comes back as it was, and what is damaged or foreign is one line."""

import json
import shutil

import blosc2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from dsmseg.datasets.store import CaseRecord, Settings, Store, as_rows, write_case
from dsmseg.errors import DsmsegError, InputError

SHAPE = (40, 33, 20)


def record(**changes) -> CaseRecord:
    values = {
        "dataset": "lits",
        "case": "7",
        "sources": (),
        "description": "abc",
        "shape": SHAPE,
        "affine": as_rows(np.diag([1.5, 1.5, 1.5, 1.0])),
        "own_shape": SHAPE,
        "own_affine": as_rows(np.eye(4)),
        "placing": "header",
        "sets": ((), (6,), (6, 31)),
        "annotated": (6, 31),
        "merged": ((2, 3),),
        "voxels": {6: 10, 31: 2},
        "body_ml": 12.5,
        "hu": {"mean": 1.25},
    }
    return CaseRecord(**(values | changes))


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    return {
        "image": generator.integers(-175, 250, SHAPE).astype(np.int16),
        "codes": generator.integers(0, 3, SHAPE).astype(np.uint8),
        "locations": {6: generator.integers(0, 20, (50, 3)).astype(np.int16)},
        "fingerprint": generator.integers(-100, 100, (12, 12, 12)).astype(np.int8),
    }


@pytest.fixture
def store(tmp_path, arrays) -> Store:
    store = Store.create(tmp_path / "store", Settings())
    folder = store.case_folder("lits", "7")
    folder.mkdir(parents=True)
    write_case(folder, record(), **arrays)
    return store


def test_a_case_comes_back_as_it_was_written(store, arrays) -> None:
    (case,) = Store.open(store.folder).cases()
    assert case.record == record()
    assert case.key == ("lits", "7")
    np.testing.assert_array_equal(case.image[:], arrays["image"])
    np.testing.assert_array_equal(case.image[3:9, 30:33, :5], arrays["image"][3:9, 30:33, :5])
    np.testing.assert_array_equal(case.codes[:], arrays["codes"])
    np.testing.assert_array_equal(case.locations(6), arrays["locations"][6])
    np.testing.assert_array_equal(case.fingerprint, arrays["fingerprint"])
    np.testing.assert_array_equal(case.mask(31), arrays["codes"] == 2)
    np.testing.assert_array_equal(case.mask(6), arrays["codes"] > 0)
    assert case.locations(31).shape == (0, 3)


def test_the_layout_in_memory_makes_no_difference_to_a_byte(store, arrays, tmp_path) -> None:
    def turned(array):
        return np.asfortranarray(array)[::-1][::-1]

    other = tmp_path / "other"
    other.mkdir()
    write_case(
        other,
        record(),
        image=turned(arrays["image"]),
        codes=turned(arrays["codes"]),
        locations={6: turned(arrays["locations"][6])},
        fingerprint=turned(arrays["fingerprint"]),
    )
    first = store.case_folder("lits", "7")
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


def test_a_store_is_gone_on_with_under_the_same_settings_only(store) -> None:
    assert Store.create(store.folder, Settings()).settings == Settings()
    with pytest.raises(InputError, match=r"was prepared with 1.5 x 1.5 x 1.5 mm and HU -175 to 250, not 2 x 2 x 2 mm"):
        Store.create(store.folder, Settings(spacing_mm=(2, 2, 2)))


def test_a_folder_with_something_else_is_refused(tmp_path) -> None:
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(InputError, match="holds something else than a store"):
        Store.create(tmp_path, Settings())
    with pytest.raises(InputError, match="is no store"):
        Store.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"spacing_mm": [0, 1, 1]}', "\xff"])
def test_damaged_settings_are_one_line(tmp_path, text) -> None:
    (tmp_path / "store.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="damaged or of another version") as caught:
        Store.open(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"format": 9}'])
def test_a_damaged_record_is_told_and_counts_as_not_there(store, content) -> None:
    (store.case_folder("lits", "7") / "case.json").write_bytes(content)
    assert store.read_case("lits", "7") is None
    with pytest.raises(InputError, match="damaged or of another version"):
        store.cases()


def read_all(store):
    (case,) = store.cases()
    return case.image[:], case.codes[:], case.locations(6), case.fingerprint


@pytest.mark.parametrize("name", ["image.b2nd", "labels.b2nd", "sampling.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "other"])
def test_a_damaged_file_is_one_line_that_names_it(store, name, damage) -> None:
    path = store.case_folder("lits", "7") / name
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "other": b"x" * 500}[damage])
    with pytest.raises(DsmsegError) as caught:
        read_all(store)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_array_that_is_an_expression_is_refused_not_evaluated(store) -> None:
    path = store.case_folder("lits", "7") / "image.b2nd"
    operand = blosc2.asarray(np.arange(10), urlpath=str(path.with_name("operand.b2nd")), mode="w")
    path.unlink()
    (operand + 1).save(str(path))
    with pytest.raises(InputError, match=r"image\.b2nd"):
        read_all(store)


MARK = "evaluated"


def marking(inputs, output, offset):  # what an attacker would have run: it leaves a mark where it is evaluated
    from pathlib import Path

    Path("evaluated").touch()
    output[:] = inputs[0]


def test_a_program_in_place_of_an_array_is_refused_and_never_run(store, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = store.case_folder("lits", "7") / "image.b2nd"
    path.unlink()
    operand = blosc2.asarray(np.arange(10), urlpath=str(tmp_path / "operand.b2nd"), mode="w")
    blosc2.lazyudf(marking, (operand,), operand.dtype).save(str(path))
    with pytest.raises(InputError, match=r"image\.b2nd"):
        read_all(store)
    assert not (tmp_path / MARK).exists()


@pytest.mark.parametrize("kind", ["list of chunks", "another shape", "another type", "four axes"])
@pytest.mark.parametrize("name", ["image.b2nd", "labels.b2nd"])
def test_what_is_not_the_array_of_the_record_is_refused(store, name, kind) -> None:
    path = store.case_folder("lits", "7") / name
    path.unlink()
    if kind == "list of chunks":
        blosc2.SChunk(chunksize=80, data=np.arange(10), urlpath=str(path), mode="w")
    else:
        other = {
            "another shape": np.zeros((5, 33, 20), np.int16),
            "another type": np.zeros(SHAPE, np.float64),
            "four axes": np.zeros((*SHAPE, 1), np.int16),
        }[kind]
        blosc2.asarray(other, urlpath=str(path), mode="w")
    with pytest.raises(InputError, match=name) as caught:
        read_all(store)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["image.b2nd", "labels.b2nd"])
def test_voxels_that_cannot_be_decompressed_are_one_line(store, name) -> None:
    path = store.case_folder("lits", "7") / name
    content = path.read_bytes()
    lines = []
    for share in (0.2, 0.35, 0.5, 0.65, 0.8):
        place = int(share * len(content))
        damaged = bytes(one ^ 0xFF for one in content[place : place + 24])
        path.write_bytes(content[:place] + damaged + content[place + 24 :])
        try:
            read_all(store)
        except DsmsegError as error:
            lines.append(str(error))
    assert all(name in line and "\n" not in line for line in lines)
    assert lines or name == "image.b2nd"  # what is stored as it is decompresses to something else


def test_locations_of_another_case_or_none_at_all_are_one_line(store) -> None:
    path = store.case_folder("lits", "7") / "sampling.safetensors"
    save_file({"something": np.zeros(3)}, path)
    with pytest.raises(InputError, match=r"sampling\.safetensors"):
        _ = store.cases()[0].fingerprint


shapes = st.tuples(*[st.integers(1, 130)] * 3).filter(lambda shape: np.prod(shape) < 400_000)


@settings(max_examples=15)
@given(shapes, st.sampled_from((np.uint8, np.uint16)), st.integers(0, 2**32 - 1))
def test_a_case_of_any_shape_comes_back_whole_and_in_parts(tmp_path_factory, shape, dtype, seed) -> None:
    generator = np.random.default_rng(seed)
    image = generator.integers(-4096, 32767, shape, endpoint=True).astype(np.int16)
    codes = generator.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)
    written = []
    for _ in range(2):
        store = Store.create(tmp_path_factory.mktemp("any") / "store", Settings())
        folder = store.case_folder("own", "a b")
        folder.mkdir(parents=True)
        known = record(dataset="own", case="a b", shape=shape, own_shape=shape)
        write_case(folder, known, image=image, codes=codes, locations={}, fingerprint=np.zeros((12, 12, 12), np.int8))
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    case = store.read_case("own", "a b")
    assert case.codes[:].dtype == dtype
    np.testing.assert_array_equal(case.image[:], image)
    np.testing.assert_array_equal(case.codes[:], codes)
    low = [int(generator.integers(size)) for size in shape]
    part = tuple(slice(first, int(generator.integers(first, size)) + 1) for first, size in zip(low, shape, strict=True))
    np.testing.assert_array_equal(case.image[part], image[part])
    np.testing.assert_array_equal(case.codes[part], codes[part])


@pytest.mark.parametrize(
    "changes",
    [{"spacing_mm": (1.5, 1.5, 3.0)}, {"hu_window": (-1000.0, 250.0)}, {"hu_window": (-175.0, 250.5)}],
    ids=str,
)
def test_each_other_setting_is_told_and_nothing_is_changed(store, changes) -> None:
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="was prepared with") as caught:
        Store.create(store.folder, Settings(**changes))
    assert "\n" not in str(caught.value)
    assert str(store.folder) in str(caught.value)
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before


def test_a_store_is_begun_in_a_new_an_empty_or_a_hidden_folder_but_not_in_a_file(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".DS_Store").touch()
    for name in ("empty", "hidden", "new/deep"):
        assert Store.create(tmp_path / name, Settings()).cases() == []
        assert Store.open(tmp_path / name).settings == Settings()
    (tmp_path / "file").touch()
    with pytest.raises(DsmsegError) as caught:
        Store.create(tmp_path / "file", Settings())
    assert "\n" not in str(caught.value)
    with pytest.raises(DsmsegError) as caught:
        Store.create(tmp_path / "file" / "below", Settings())
    assert "\n" not in str(caught.value)


def test_cases_come_by_data_set_and_id_and_what_begins_with_a_dot_is_none(store) -> None:
    first = store.case_folder("lits", "7")
    for name in ("btcv/0002", "btcv/0001", ".hidden/1", "btcv/.12ab34cd.0003"):
        shutil.copytree(first, store.folder / name)
    assert [f"{one.folder.parent.name}/{one.folder.name}" for one in store.cases()] == [
        "btcv/0001",
        "btcv/0002",
        "lits/7",
    ]


def test_records_are_plain_json(store) -> None:
    content = json.loads((store.case_folder("lits", "7") / "case.json").read_text())
    assert content["voxels"] == {"6": 10, "31": 2}
