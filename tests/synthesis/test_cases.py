"""Whole cases: the same voxels for the same plan, tumors inside their hosts, no seams; patches on demand."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from dsmseg.errors import InputError
from dsmseg.synthesis import cases
from dsmseg.synthesis.bodies import PatchPlan
from dsmseg.synthesis.cases import CasePlan, make_case
from dsmseg.synthesis.noise import generator
from dsmseg.synthesis.online import draw_phantom
from dsmseg.synthesis.phantom.canvas import Frame
from dsmseg.synthesis.scanner import Scanner, draw_scanner, scan
from dsmseg.taxonomy import ORGANS, TUMORS, find

SMALL = CasePlan(seed=5, coverage="abdomen", spacing=(5.0, 5.0, 6.0), tumors=("Liver Tumor",))


def test_the_same_plan_gives_the_same_bytes_on_every_machine() -> None:
    case = make_case(SMALL)
    digests = [hashlib.sha256(array.tobytes()).hexdigest()[:16] for array in (case.image, case.structures)]
    assert digests == ["2817880d123030e8", "664475eaae3533cd"]


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
    assert (case.tumor_labels() > 0).sum() == tumor.sum()


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
    assert not case.tumors


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"coverage": "head"}, "no coverage"),
        ({"phase": "late"}, "no contrast phase"),
        ({"artifacts": ("rust",)}, "no artifact"),
        ({"tumors": ("Liver",)}, "is an organ"),
        ({"spacing": (0.0, 1.0, 1.0)}, "spacing"),
    ],
)
def test_what_cannot_be_made_is_refused(change, told) -> None:
    with pytest.raises(InputError, match=told):
        make_case(CasePlan(seed=1, **change))


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
