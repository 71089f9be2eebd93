"""What a store holds comes back as it was, and what is damaged or foreign is one line."""

import json

import blosc2
import numpy as np
import pytest

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


def test_records_are_plain_json(store) -> None:
    content = json.loads((store.case_folder("lits", "7") / "case.json").read_text())
    assert content["voxels"] == {"6": 10, "31": 2}
