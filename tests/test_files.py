"""Files are whole or not there."""

import json

import pytest

from dsmseg.errors import OutputError
from dsmseg.files import replacing, write_json


def test_a_file_takes_its_place_when_it_is_whole(tmp_path) -> None:
    target = tmp_path / "new" / "record.json"
    write_json(target, {"å": [1, 2]})
    assert json.loads(target.read_text(encoding="utf-8")) == {"å": [1, 2]}
    assert [path.name for path in target.parent.iterdir()] == ["record.json"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    target = tmp_path / "record.json"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(target) as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_temporary_name_keeps_the_suffixes(tmp_path) -> None:
    with replacing(tmp_path / "labels.nii.gz") as temporary:
        assert temporary.name.endswith(".labels.nii.gz")
        temporary.write_text("x")


def test_a_full_disk_is_told_in_one_line(tmp_path) -> None:
    with pytest.raises(OutputError, match="No space left on device") as error, replacing(tmp_path / "x.json"):
        raise OSError(28, "No space left on device")
    assert "\n" not in str(error.value)


def test_a_folder_that_is_a_file_is_told(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_json(tmp_path / "file" / "x.json", {})


def test_a_name_that_is_no_text_stays_valid_json(tmp_path) -> None:
    write_json(tmp_path / "x.json", {"name": "scan\udcff.nii"})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"name": "scan\udcff.nii"}


def test_json_has_no_nan(tmp_path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
