"""Whole cases: the same voxels for the same plan, tumors inside their hosts, no seams; patches on demand."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dsmseg import resources
from dsmseg.errors import InputError
from dsmseg.synthesis import cases
from dsmseg.synthesis.bodies import PatchPlan
from dsmseg.synthesis.cases import CasePlan, make_case
from dsmseg.synthesis.noise import generator
from dsmseg.synthesis.online import draw_phantom
from dsmseg.synthesis.phantom.canvas import Frame
from dsmseg.synthesis.phantom.structures import id_of
from dsmseg.synthesis.scanner import Scanner, draw_scanner, scan
from dsmseg.taxonomy import ORGANS, TUMORS, find

SMALL = CasePlan(seed=5, coverage="abdomen", spacing=(5.0, 5.0, 6.0), tumors=("Liver Tumor",))


DIGESTS = ["7a09a5ef086582ab", "7002fa6df6b4c9a9", "8468285ae1a5e37b"]


def digests(plan: CasePlan) -> list[str]:
    case = make_case(plan)
    return [hashlib.sha256(array.tobytes()).hexdigest()[:16] for array in (case.image, case.structures, case.tumors)]


def test_the_same_plan_gives_the_same_bytes_on_every_machine() -> None:
    assert digests(SMALL) == DIGESTS


@pytest.mark.slow
def test_an_older_processor_gives_the_same_bytes() -> None:
    """The libraries choose their code by the processor: an older one is pretended, and numba compiles for any."""
    older = {
        "NPY_DISABLE_CPU_FEATURES": _newer_features(),
        "OPENBLAS_CORETYPE": "Prescott",
        "NUMBA_CPU_NAME": "generic",
    }
    script = "from test_cases import SMALL, digests; print(*digests(SMALL))"
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-c", script],
        env={**os.environ, **older},
        cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.split() == DIGESTS


def _newer_features() -> str:
    """Name what numpy would use of this processor beyond what every one of its kind has."""
    return " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", []))


def test_the_body_and_its_table_lie_within_the_scan() -> None:
    air = 0
    for seed in range(8):
        case = make_case(CasePlan(seed=seed, coverage="torso" if seed % 2 else "abdomen", spacing=(6.0, 6.0, 8.0)))
        body = (case.structures != air) & (case.structures != id_of("table")) & (case.structures != id_of("cushion"))
        for side in (body[0], body[-1], body[:, 0], body[:, -1]):
            assert not side.any(), seed


def test_the_record_measures_each_lesion_as_it_is_after_later_tumors_have_pushed() -> None:
    plan = replace(SMALL, spacing=(2.5, 2.5, 3.0), tumors=("Liver Tumor", "Liver Tumor", "Kidney Tumor"), whole=True)
    case = make_case(plan)
    for kind in ("Liver Tumor", "Kidney Tumor"):
        mask = case.mask(find(kind).id)
        rows = [row for one in case.record["tumors"] if one["kind"] == kind for row in one["lesions"]]
        assert sum(row["voxels"] for row in rows) == mask.sum()
        center = np.average([row["center_voxel"] for row in rows], axis=0, weights=[row["voxels"] for row in rows])
        np.testing.assert_allclose(center, np.argwhere(mask).mean(axis=0), atol=0.01)


@pytest.mark.parametrize("artifacts", [(), ("metal", "motion", "beam hardening")])
def test_slabs_leave_no_seam(artifacts, monkeypatch) -> None:
    plan = replace(SMALL, artifacts=artifacts)
    whole = make_case(plan)
    monkeypatch.setattr(cases, "_SLAB", 40_000)
    slabs = make_case(plan)
    np.testing.assert_array_equal(slabs.image, whole.image)
    np.testing.assert_array_equal(slabs.structures, whole.structures)


def test_an_organ_holds_its_tumor_and_the_liver_its_vessels() -> None:
    case = make_case(CasePlan(seed=1, coverage="abdomen", spacing=(3.0, 3.0, 4.0), tumors=("Liver Tumor",), whole=True))
    liver, tumor, vessels = (case.mask(find(name).id) for name in ("Liver", "Liver Tumor", "Hepatic Vessel"))
    assert tumor.any()
    assert vessels.any()
    assert not (tumor & ~liver).any()
    assert not (vessels & ~liver).any()
    assert (case.tumors > 0).sum() == tumor.sum()


@pytest.fixture(scope="module")
def torso():
    tumors = tuple(one.name for one in TUMORS)
    return make_case(CasePlan(seed=2, coverage="torso", spacing=(2.5, 2.5, 3.0), tumors=tumors, whole=True))


def test_each_kind_of_tumor_can_be_grown_in_one_body(torso) -> None:
    skipped = {row["kind"]: row["skipped"] for row in torso.record["tumors"] if "skipped" in row}
    assert len(skipped) <= 3, skipped
    for kind in TUMORS:
        if kind.name not in skipped:
            mask = torso.mask(kind.id)
            hosts = np.logical_or.reduce([torso.mask(find(host).id) for host in kind.hosts])
            assert mask.any(), kind.name
            assert not (mask & ~hosts).any(), kind.name


def test_all_organs_are_in_a_torso_and_hu_are_those_of_tissue(torso) -> None:
    for organ in ORGANS:
        assert torso.mask(organ.id).any(), organ.name
    assert -950 < np.median(torso.image[torso.mask(find("Right Lung").id)]) < -600
    assert 0 < np.median(torso.image[torso.mask(find("Liver").id)]) < 180
    assert torso.image.min() >= -1024


def test_an_organ_outside_of_the_scan_is_empty() -> None:
    case = make_case(CasePlan(seed=1, coverage="pelvis", spacing=(6.0, 6.0, 6.0)))
    assert not case.mask(find("Right Lung").id).any()
    assert case.mask(find("Bladder").id).any()


def test_a_tumor_without_a_host_is_told_not_invented() -> None:
    case = make_case(CasePlan(seed=1, coverage="pelvis", spacing=(6.0, 6.0, 6.0), tumors=("Lung Tumor",)))
    assert "skipped" in case.record["tumors"][0]
    assert not case.tumors.any()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"coverage": "head"}, "no coverage"),
        ({"phase": "late"}, "no contrast phase"),
        ({"artifacts": ("rust",)}, "no artifact"),
        ({"tumors": ("Liver",)}, "is an organ"),
        ({"spacing": (0.0, 1.0, 1.0)}, "spacing"),
        ({"tumors": ("Liver Tumor",) * 31}, "too many"),
        ({"tumors": ("Liver Tumor",), "variant": "papillary carcinoma"}, "no variant of Liver Tumor"),
        ({"tumors": ("Liver Tumor",), "diameter_mm": -1.0}, "the diameter is"),
    ],
)
def test_what_cannot_be_made_is_refused(change, told) -> None:
    with pytest.raises(InputError, match=told):
        make_case(CasePlan(seed=1, **change))


def test_a_plan_names_the_variant_and_the_diameter_of_its_tumors() -> None:
    plan = replace(SMALL, spacing=(3.0, 3.0, 3.0), variant="hepatocellular carcinoma", whole=True)
    longest = []
    for diameter in (15.0, 30.0):
        (record,) = make_case(replace(plan, diameter_mm=diameter)).record["tumors"]
        assert record["variant"] == "hepatocellular carcinoma"
        longest.append(record["lesions"][0]["diameter_mm"])
    assert longest == pytest.approx([15, 30], rel=0.35)


def test_a_scan_that_does_not_fit_into_memory_is_refused_before_it_is_drawn(monkeypatch) -> None:
    monkeypatch.setattr(resources, "memory", lambda: 1 << 29)
    with pytest.raises(InputError, match="GB"):
        make_case(CasePlan(seed=1, coverage="torso", spacing=(0.5, 0.5, 0.5)))


def test_noise_is_as_strong_as_asked_for() -> None:
    frame = Frame((64, 64, 24), (0.8, 0.8, 2.0), (0.0, 0.0, 0.0))
    settings = draw_scanner(generator(1), 2.0)
    scanned = scan(np.full(frame.shape, 50.0, np.float32), frame, settings)
    assert scanned.mean() == pytest.approx(50, abs=1)
    assert scanned.std() == pytest.approx(settings.noise, rel=0.1)


@pytest.mark.parametrize("artifact", ["metal", "motion", "beam hardening"])
def test_an_artifact_changes_the_scan(artifact) -> None:
    frame = Frame((40, 40, 12), (2.0, 2.0, 3.0), (0.0, 0.0, 0.0))
    image = np.full(frame.shape, 40.0, np.float32)
    image[8:14, 12:18] = image[26:32, 12:18] = 700.0
    clean, marred = (scan(image, frame, Scanner(0.6, 3.0, 5.0, 0.8, names, 9)) for names in ((), (artifact,)))
    assert np.abs(marred - clean).max() > 20


def test_a_patch_on_demand_is_decided_by_its_stream() -> None:
    plan = PatchPlan(size=(32, 32, 32), spacing=4.0)
    first, again, other = (draw_phantom(plan, generator("patch", seed)) for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.organs, again.organs)
    assert not torch.equal(first.organs, other.organs)
    assert first.annotated == tuple(range(1, 26))
    assert first.organs.max() <= 25


def test_patches_on_demand_show_every_organ() -> None:
    plan = PatchPlan(size=(32, 32, 32), spacing=5.0)
    seen = set().union(*(draw_phantom(plan, generator("all", seed)).organs.unique().tolist() for seed in range(40)))
    assert seen == set(range(26))
