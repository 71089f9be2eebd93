"""Other people's tools on a result of all 45 classes: each test skips where its tool is not installed."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_results import ORIGIN, labels_like, quotable_series, with_uids

from dsmseg.taxonomy import CLASSES, ORGANS, TUMORS
from dsmseg.volume import Volume, read_scan
from dsmseg.volume.dicom_out import DICOM_FILES, CodedSegment, Finding, Layer, read_source_series, write_dicom_results

ORTHANC = shutil.which("Orthanc", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
SECONDS_TO_START = 30


def tool(name):
    """Give a tool's path, or skip."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture(scope="module")
def case(tmp_path_factory, dicom_series):
    """Write a result with all classes among its segments, beside the series that it refers to."""
    folder = tmp_path_factory.mktemp("case")
    orientation = (0.98, 0.198997, 0, -0.198997, 0.98, 0)
    source = quotable_series(dicom_series, orientation=orientation).write(folder / "ct")
    return written(folder, source)


def run(name, *arguments):
    """Run a tool, and give what it says; skip where it is not installed."""
    command = [tool(name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


def judgement(path):
    told = run("dciodvfy", path)
    return (told.stdout + told.stderr).splitlines()


def written(folder, source, organ_count=25, tumor_count=20):
    volume = read_scan(source)
    organs, tumors = labels_like(volume, organ_count), labels_like(volume, tumor_count, seed=1)
    findings = [
        Finding(CodedSegment(one.id, one.name, one), 10.0, 40.0, 9.0, one.id % 2 == 0, *axes)
        for one, axes in [
            *((one, ()) for one in ORGANS[:organ_count]),
            *((one, (9.5, 4.5)) for one in TUMORS[:tumor_count]),
        ]
    ]
    files = write_dicom_results(
        folder / "result",
        series=read_source_series(source),
        volume=volume,
        organs=Layer(organs, findings[:organ_count]),
        tumors=Layer(np.where(tumors, tumors + 25, 0).astype(np.uint8), findings[organ_count:]),
        absent=CLASSES[::7],
        origin=ORIGIN,
    )
    assert tuple(files) == DICOM_FILES
    return folder


@pytest.mark.parametrize("name", DICOM_FILES)
def test_dciodvfy_finds_no_error(case, name):
    lines = judgement(case / "result" / name)
    assert ("Comprehensive3DSR" if name == "report.dcm" else "Segmentation") in lines
    assert [line for line in lines if line.startswith(("Error", "Abort"))] == []
    # Our own scheme, for the one class without a SNOMED CT code, is all that it may wonder about.
    warnings = [line for line in lines if line.startswith("Warning")]
    assert [line for line in warnings if "99DSMSEG" not in line] == []


def test_dciodvfy_finds_no_error_in_results_of_a_real_series(tmp_path, real_data):
    folder = written(tmp_path, with_uids(real_data / "dicom_series" / "ct", tmp_path / "ct", slices=2), 3, 3)
    for name in DICOM_FILES:
        assert [line for line in judgement(folder / "result" / name) if line.startswith(("Error", "Abort"))] == []


def test_dcmqi_reads_the_same_voxels_names_and_colors(case, tmp_path):
    path = case / "result" / "organs.dcm"
    told = run("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", tmp_path, "--mergeSegments")
    assert told.returncode == 0
    image = SimpleITK.ReadImage(str(tmp_path / "1.nrrd"))
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    found = Volume.from_own(SimpleITK.GetArrayFromImage(image).T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)
    volume = read_scan(case / "ct")
    np.testing.assert_array_equal(found.array, labels_like(volume, 25))
    np.testing.assert_allclose(found.affine, volume.affine, atol=1e-3)
    (segments,) = json.loads((tmp_path / "meta.json").read_text())["segmentAttributes"]
    assert [one["SegmentLabel"] for one in segments] == [one.name for one in ORGANS]
    colors = [one["recommendedDisplayRGBValue"] for one in segments]
    np.testing.assert_allclose(colors, [one.color for one in ORGANS], atol=2)


def test_dcmqi_reads_the_measurements(case, tmp_path):
    path = case / "result" / "report.dcm"
    assert run("tid1500reader", "--inputDICOM", path, "--outputMetadata", tmp_path / "x.json").returncode == 0
    groups = json.loads((tmp_path / "x.json").read_text())["Measurements"]
    found = {group["TrackingIdentifier"]: group for group in groups if "ReferencedSegment" in group}
    assert list(found) == [one.name for one in CLASSES]
    items = [
        (item["quantity"]["CodeMeaning"], float(item["value"])) for item in found["Lung Tumor"]["measurementItems"]
    ]
    attenuation = "Attenuation Coefficient"
    expected = [("Volume", 10.0), (attenuation, 40.0), (attenuation, 9.0), ("Long axis", 9.5), ("Short axis", 4.5)]
    assert items == expected


@pytest.fixture
def orthanc(tmp_path):
    """Start a PACS of our own that only this machine can reach, give its address, and end it."""
    if ORTHANC is None:
        pytest.skip("Orthanc is not installed")
    with socket.socket() as web, socket.socket() as dicom:
        web.bind(("127.0.0.1", 0))
        dicom.bind(("127.0.0.1", 0))
        ports = web.getsockname()[1], dicom.getsockname()[1]
    settings = {
        "HttpPort": ports[0],
        "DicomPort": ports[1],
        "DicomServerEnabled": False,
        "StorageDirectory": str(tmp_path / "storage"),
        "IndexDirectory": str(tmp_path / "storage"),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)  # noqa: S603
    try:
        address = f"http://127.0.0.1:{ports[0]}"
        await_start(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(SECONDS_TO_START)


def await_start(address, process):
    for _ in range(SECONDS_TO_START * 10):
        assert process.poll() is None, "Orthanc did not start"
        try:
            ask(f"{address}/system")
            return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError("Orthanc did not answer")


def ask(address, content=None):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(address, data=content), timeout=SECONDS_TO_START) as answer:  # noqa: S310
        return answer.read()


def test_a_pacs_takes_a_result_and_gives_it_back_unchanged(case, orthanc):
    paths = [*(case / "ct").iterdir(), *(case / "result" / name for name in DICOM_FILES)]
    for path in paths:
        answer = json.loads(ask(f"{orthanc}/instances", path.read_bytes()))
        assert answer["Status"] == "Success"
        returned = ask(f"{orthanc}/instances/{answer['ID']}/file")
        assert returned == path.read_bytes()
    assert [len(json.loads(ask(f"{orthanc}/{level}"))) for level in ("patients", "studies", "series")] == [1, 1, 4]
    modalities = [
        json.loads(ask(f"{orthanc}/series/{one}"))["MainDicomTags"]["Modality"]
        for one in json.loads(ask(f"{orthanc}/series"))
    ]
    assert sorted(modalities) == ["CT", "SEG", "SEG", "SR"]


def test_dcmtk_prints_the_report(case):
    told = run("dsrdump", case / "result" / "report.dcm")
    assert told.returncode == 0
    assert told.stdout.count("Measurement Group") == len(CLASSES) + len(CLASSES[::7])
    assert not [line for line in told.stderr.splitlines() if line.startswith("E:")]


def test_a_result_belongs_to_the_study_of_its_scan(case):
    scan = pydicom.dcmread(next((case / "ct").iterdir()))
    for name in DICOM_FILES:
        dataset = pydicom.dcmread(case / "result" / name)
        assert dataset.StudyInstanceUID == scan.StudyInstanceUID
        assert dataset.PatientName == scan.PatientName
        assert dataset.SeriesInstanceUID != scan.SeriesInstanceUID
