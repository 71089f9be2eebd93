"""A folder run: checked first, then case by case, and one bad case stops nothing."""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import SimpleITK
import torch

from dsmseg.errors import InputError, OutputError
from dsmseg.inference import Segmentation, Segmenter, find_cases, predict, prediction
from dsmseg.inference.unchanged import hash_scan, is_unchanged


@pytest.fixture
def segmenter(make_network, make_card):
    return Segmenter(make_network(), make_card(), device="cpu")


@pytest.fixture
def cases(phantom, write_scan) -> Path:
    for name in ("a", "b", "c"):
        path = write_scan(phantom(), name=f"cases/{name}.nii.gz")
    return path.parent


def test_every_case_gets_its_folder(segmenter, cases, tmp_path):
    output = tmp_path / "deep" / "out"
    results = list(predict(find_cases([cases]), output, segmenter=segmenter))
    assert [result.case.name for result in results] == ["a", "b", "c"]
    assert [result.directory for result in results] == [output / "a", output / "b", output / "c"]
    assert all((output / name / "organs.nii.gz").is_file() for name in "abc")
    assert {path.name for path in output.iterdir()} == {"a", "b", "c"}
    assert all(result.error is None and result.segmentation and result.seconds > 0 for result in results)


def test_one_damaged_case_does_not_stop_the_others(segmenter, cases, tmp_path):
    (cases / "b.nii.gz").write_bytes(b"damaged")
    results = list(predict(find_cases([cases]), tmp_path / "out", segmenter=segmenter))
    assert [result.error is None for result in results] == [True, False, True]
    assert isinstance(results[1].error, InputError)
    assert results[1].directory is None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "c"}


def test_cases_are_computed_as_they_are_asked_for_one_ahead_while_the_last_one_is_written(segmenter, cases, tmp_path):
    computed = []
    results = predict(
        find_cases([cases]),
        tmp_path / "out",
        segmenter=segmenter,
        progress=lambda case, done, total: computed.append(case.name) if done == total else None,
    )
    assert not list((tmp_path / "out").iterdir())
    assert next(results).case.name == "a"
    assert computed == ["a", "b"]
    assert (tmp_path / "out" / "a" / "run.json").is_file()
    results.close()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "b"}


def test_an_existing_case_folder_stops_the_run_before_anything_is_computed(segmenter, cases, tmp_path):
    list(predict(find_cases([cases / "c.nii.gz"]), tmp_path / "out", segmenter=segmenter))
    (tmp_path / "out" / "c" / "statistics.json").unlink()
    with pytest.raises(OutputError, match="exists already"):
        predict(find_cases([cases]), tmp_path / "out", segmenter=segmenter)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c"]


def test_what_is_done_and_unchanged_is_left_as_it_is(segmenter, cases, tmp_path, monkeypatch):
    output, found = tmp_path / "out", find_cases([cases])
    first = predict(found, output, segmenter=segmenter)
    next(first)
    first.close()  # as a run that is stopped: "a" was handed on, "b" was being written
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    computed = []
    segment = Segmenter.segment

    def counting(self, volume, **options):
        computed.append(options["source"].name)
        return segment(self, volume, **options)

    monkeypatch.setattr(Segmenter, "segment", counting)
    results = list(predict(found, output, segmenter=segmenter))
    assert computed == ["c.nii.gz"]
    assert [(result.unchanged, result.error) for result in results] == [(True, None), (True, None), (False, None)]
    assert [result.directory for result in results] == [output / name for name in "abc"]
    assert {path: path.stat().st_mtime_ns for path in before if path != output} == {
        path: time for path, time in before.items() if path != output
    }


@pytest.mark.parametrize("what", ["scan", "weights", "classes", "format", "file"])
def test_what_was_made_from_something_else_is_not_taken_for_done(
    segmenter, make_network, make_card, cases, phantom, write_scan, tmp_path, what
):
    found = find_cases([cases / "a.nii.gz"])
    list(predict(found, tmp_path / "out", segmenter=segmenter))
    other, options = segmenter, {}
    if what == "scan":
        hu = phantom()
        hu[10, 12, 8] += 1
        write_scan(hu, name="cases/a.nii.gz")
    elif what == "weights":
        other = Segmenter(make_network(), make_card(sha256="1" * 64), device="cpu")
    elif what == "classes":
        other = Segmenter(make_network(), make_card(), device="cpu", classes="liver")
    elif what == "format":
        options = {"file_format": "seg.nrrd"}
    else:
        (tmp_path / "out" / "a" / "organs.nii.gz").unlink()
    with pytest.raises(OutputError, match="exists already"):
        predict(found, tmp_path / "out", segmenter=other, **options)
    (result,) = predict(found, tmp_path / "out", segmenter=other, overwrite=True, **options)
    assert not result.unchanged


def test_a_folder_is_hashed_with_its_names(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "1.dcm").write_bytes(b"first")
        (tmp_path / name / "2.dcm").write_bytes(b"second")
    assert hash_scan(tmp_path / "one") == hash_scan(tmp_path / "other")
    (tmp_path / "other" / "2.dcm").rename(tmp_path / "other" / "3.dcm")
    assert hash_scan(tmp_path / "one") != hash_scan(tmp_path / "other")


@pytest.mark.parametrize("several", [False, True])
def test_voxels_that_lie_beside_their_header_are_hashed_too(segmenter, phantom, tmp_path, several):
    header, data = tmp_path / "ct.mhd", tmp_path / "ct.raw"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(phantom().T), header)
    if several:  # a pattern of names: which files those are, only ITK knows
        header.write_text(header.read_text().replace("ct.raw", "ct%d.raw 0 0 1"))
        data = data.rename(tmp_path / "ct0.raw")
        assert hash_scan(header) is None
        return
    list(predict(find_cases([header]), tmp_path / "out", segmenter=segmenter))
    (again,) = predict(find_cases([header]), tmp_path / "out", segmenter=segmenter)
    assert again.unchanged
    voxels = bytearray(data.read_bytes())
    voxels[-1] ^= 1
    data.write_bytes(voxels)
    with pytest.raises(OutputError, match="exists already"):
        predict(find_cases([header]), tmp_path / "out", segmenter=segmenter)


def test_with_overwrite_it_is_replaced(segmenter, cases, tmp_path):
    for _ in range(2):
        results = list(predict(find_cases([cases]), tmp_path / "out", segmenter=segmenter, overwrite=True))
        assert [result.error for result in results] == [None] * 3


def test_an_output_that_is_a_file_or_below_one_is_told_before_anything_is_computed(segmenter, cases, tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OutputError):
            predict(find_cases([cases]), output, segmenter=segmenter)


def test_an_output_that_cannot_be_written_to_is_told_before_anything_is_computed(
    segmenter, cases, tmp_path, monkeypatch
):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        predict(find_cases([cases]), tmp_path / "out", segmenter=segmenter)


def test_where_all_cases_fail_no_folder_stays_that_was_made_for_them(segmenter, tmp_path):
    (tmp_path / "torn.nii").write_bytes(b"torn")
    torn = find_cases([tmp_path / "torn.nii"])
    (tmp_path / "mine").mkdir()
    for output in (tmp_path / "mine" / "deep" / "out", tmp_path / "mine"):
        (result,) = predict(torn, output, segmenter=segmenter)
        assert result.error is not None
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_for_one_case_does_not_stop_the_others(segmenter, cases, tmp_path, monkeypatch, error):
    save = Segmentation.save

    def save_what_fits(self, directory, **options):
        if directory.name == "b":
            raise error
        return save(self, directory, **options)

    monkeypatch.setattr(Segmentation, "save", save_what_fits)
    results = list(predict(find_cases([cases]), tmp_path / "out", segmenter=segmenter))
    assert [result.error is None for result in results] == [True, False, True]
    assert isinstance(results[1].error, InputError)
    assert "memory ran out" in str(results[1].error)


def test_a_result_that_the_caller_drops_is_gone_before_the_next_case(segmenter, cases, tmp_path):
    seen = []

    def check(*_):
        assert all(one() is None for one in seen)

    for result in predict(find_cases([cases]), tmp_path / "out", segmenter=segmenter, progress=check):
        seen.append(weakref.ref(result.segmentation.organs))
        del result
    assert len(seen) == 3


def test_prediction_loads_neither_monai_nor_lightning():
    code = (
        "import sys, dsmseg.inference; print({'monai', 'lightning', 'lightning_fabric', 'pytest'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert run.stdout.strip() == "set()"


def test_where_memory_has_no_room_beside_a_scan_each_case_is_written_before_the_next(
    segmenter, cases, tmp_path, monkeypatch
):
    monkeypatch.setattr(prediction, "available_memory", lambda: 1)
    done = []

    def whole(case, *_):
        done.append({path.name for path in (tmp_path / "out").iterdir() if (path / "run.json").is_file()})

    results = list(predict(find_cases([cases]), tmp_path / "out", segmenter=segmenter, progress=whole))
    assert [result.case.name for result in results] == ["a", "b", "c"]
    assert [result.error for result in results] == [None] * 3
    assert [sorted(one) for one in (done[0], done[-1])] == [[], ["a", "b"]]


@pytest.mark.parametrize("failing", ["a", "b", "c"])
def test_what_was_written_is_told_whatever_then_goes_wrong(segmenter, cases, tmp_path, monkeypatch, failing):
    save = Segmentation.save

    def save_but_one(self, directory, **options):
        if directory.name == failing:
            raise ZeroDivisionError
        return save(self, directory, **options)

    monkeypatch.setattr(Segmentation, "save", save_but_one)
    told = []
    with pytest.raises(ZeroDivisionError):
        told.extend(predict(find_cases([cases]), tmp_path / "out", segmenter=segmenter))
    written = {path.name for path in (tmp_path / "out").iterdir()} if (tmp_path / "out").exists() else set()
    assert failing not in written
    assert {result.case.name for result in told} == written


def test_dicom_results_of_which_one_is_gone_are_not_whole(tmp_path):
    settings = {"dsmseg": "1"}
    for name in ("report.dcm", "anomaly.nii.gz", "unexplained.nii.gz", "organs.dcm", "ct.nii"):
        (tmp_path / name).write_bytes(b"")
    made = {"dsmseg": "1", "input": {"sha256": hash_scan(tmp_path / "ct.nii")}}
    (tmp_path / "run.json").write_text(json.dumps(made))
    found = {"organs": [{"voxels": 3}], "tumors": "not searched", "lesions": []}
    (tmp_path / "statistics.json").write_text(json.dumps(found))
    assert is_unchanged(tmp_path, tmp_path / "ct.nii", settings, "dicom-seg")
    (tmp_path / "organs.dcm").unlink()
    assert not is_unchanged(tmp_path, tmp_path / "ct.nii", settings, "dicom-seg")
    found["organs"][0]["voxels"] = 0
    (tmp_path / "statistics.json").write_text(json.dumps(found))
    assert is_unchanged(tmp_path, tmp_path / "ct.nii", settings, "dicom-seg")
    (tmp_path / "statistics.json").write_text("{")
    assert not is_unchanged(tmp_path, tmp_path / "ct.nii", settings, "dicom-seg")
