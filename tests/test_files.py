"""Files are whole or not there."""

import json
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsmseg.errors import OutputError
from dsmseg.files import remove_leftovers, replacing, replacing_folder, write_json


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


# --- folders ---------------------------------------------------------------------------------------------------------


def content_of(folder) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "case"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_text("old")
    (folder / "b").write_text("old")
    return folder


def test_a_folder_takes_its_place_when_it_is_whole_and_nothing_of_the_old_stays(folder) -> None:
    with replacing_folder(folder) as temporary:
        assert temporary.parent == folder.parent
        assert temporary.name.startswith(".")
        (temporary / "new").mkdir()
        (temporary / "new" / "c").write_text("new")
        assert content_of(folder) == {"deep/a": "old", "b": "old"}
    assert content_of(folder) == {"new/c": "new"}
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_is_made_with_all_above_it_where_there_was_none(tmp_path) -> None:
    target = tmp_path / "store" / "btcv" / "0001"
    with replacing_folder(target) as temporary:
        (temporary / "a").write_text("new")
    assert content_of(tmp_path) == {"store/btcv/0001/a": "new"}


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), ValueError("x"), OSError(28, "No space left on device")], ids=repr
)
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_was_not_finished_leaves_the_old_one_and_nothing_else(folder, error, there) -> None:
    target = folder if there else folder.with_name("other")
    with pytest.raises((type(error), OutputError)), replacing_folder(target) as temporary:
        (temporary / "half").write_text("new")
        raise error
    assert content_of(folder) == {"deep/a": "old", "b": "old"}
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("number", [1, 2])
def test_an_interruption_while_folders_change_places_keeps_the_old_or_the_new_whole(
    folder, monkeypatch, number
) -> None:
    rename, calls = os.rename, []

    def interrupted(source, target) -> None:
        calls.append(target)
        if len(calls) == number:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing_folder(folder) as temporary:
        (temporary / "c").write_text("new")
    assert content_of(folder) in ({"deep/a": "old", "b": "old"}, {"c": "new"})
    assert list(folder.parent.iterdir()) == [folder]


def test_what_goes_wrong_inside_is_told_of_the_folder_not_of_the_temporary_one(folder) -> None:
    with pytest.raises(OutputError) as caught, replacing_folder(folder) as temporary:
        write_json(temporary / "b" / "c" / "x.json", {})
        (temporary / "b" / "c").joinpath("x.json", "y").write_text("not a folder")
    assert str(folder) in str(caught.value)
    assert ".case" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_place_below_a_file_is_one_line(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written") as caught, replacing_folder(tmp_path / "file" / "case"):
        pass
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == ""


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60).filter(
        lambda name: name not in (".", "..")
    )
)
@example("a" * 200)
@example("s0001.old.x")
def test_a_folder_may_have_any_name(tmp_path_factory, name) -> None:
    target = tmp_path_factory.mktemp("any") / name
    for text in ("first", "second"):
        with replacing_folder(target) as temporary:
            (temporary / "a").write_text(text)
    assert content_of(target) == {"a": "second"}
    assert len(list(target.parent.iterdir())) == 1


def test_two_who_write_the_same_folder_at_once_leave_one_of_the_two_whole(folder) -> None:
    with replacing_folder(folder) as one, replacing_folder(folder) as other:
        assert one != other
        (one / "a").write_text("one")
        (other / "a").write_text("other")
    assert content_of(folder) == {"a": "one"}
    assert list(folder.parent.iterdir()) == [folder]


def test_what_a_killed_process_leaves_is_removed_and_a_folder_that_lost_its_name_gets_it_back(tmp_path) -> None:
    old, half, other = (tmp_path / name for name in (".01234567-old.a", ".01234567.a", ".01234567.b"))
    for left in (old, half, other):
        left.mkdir()
    (old / "run.json").write_text("{}")
    remove_leftovers(tmp_path / "a")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [other.name, "a"]
    assert (tmp_path / "a" / "run.json").is_file()
    remove_leftovers(tmp_path / "nowhere" / "b")


def test_what_is_being_written_is_no_leftover(folder) -> None:
    with replacing_folder(folder) as temporary:
        (temporary / "a").write_text("new")
        remove_leftovers(folder)
    assert content_of(folder) == {"a": "new"}
