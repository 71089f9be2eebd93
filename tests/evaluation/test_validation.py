"""Weights on held-out scans."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from held_out import P_SPOT, P_TUMOR, SPOT_BOX, TUMOR_BOX, KnowsDensity, a_card, write_held_out

from dsmseg import checkpoint
from dsmseg.checkpoint import OperatingPoint
from dsmseg.datasets.labelled import labelled_cases
from dsmseg.errors import InputError, WeightsError
from dsmseg.evaluation import validation
from dsmseg.evaluation.planting import plant
from dsmseg.evaluation.validation import calibrate, look_at, validate
from dsmseg.inference import Segmenter
from dsmseg.inference.runtime import Runtime
from dsmseg.synthesis.noise import generator
from dsmseg.taxonomy import find

CPU = Runtime(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return labelled_cases(write_held_out(tmp_path_factory.mktemp("held_out")))


@pytest.fixture(scope="module")
def found(cases):
    return validate(KnowsDensity(), a_card(), cases, CPU)


def test_a_case_leaves_the_dice_of_its_organs_and_the_candidates_of_its_annotated_tumors(cases):
    findings = look_at(cases[0].read(), KnowsDensity(), a_card(), CPU)
    assert findings.organs == {"Liver": 1.0}
    candidates = findings.tumors["Liver Tumor"]
    assert list(findings.tumors) == ["Liver Tumor"]  # of kidney tumors nothing is known here
    assert (candidates.lesions, candidates.reference_voxels.tolist()) == (1, [6**3])
    sizes = sorted(set(candidates.voxels[candidates.mean_score > 0.05].tolist()))
    assert sizes == [3**3, 6**3]


def test_the_mean_score_is_of_organs_tumors_and_lesions_at_one_false_lesion_a_scan(found):
    assert found.cases == 4
    assert found.means == {"dice of organs": 1.0, "dice of tumors": 1.0, "lesion sensitivity": 1.0}
    assert found.score == 1.0
    figures = found.figures()
    assert figures["validation sensitivity of Liver Tumor"] == 1.0
    assert all(name.startswith("validation ") for name in figures)


def planted_in(case, seed=0):
    return plant(case, a_card(), generator("planted", seed))


def test_a_tumor_is_planted_where_the_scan_is_known_to_lack_it(cases):
    healthy = cases[2].read()
    liver, image = healthy.labels.mask(find("Liver").id), healthy.image.array.copy()
    copy = planted_in(healthy)
    assert copy.labels.annotated == (find("Liver Tumor").id,)
    tumor = copy.labels.mask(find("Liver Tumor").id)
    assert tumor.any()
    assert not (tumor & ~liver).any()
    changed = copy.image.array != image
    assert changed[tumor].mean() > 0.9
    np.testing.assert_array_equal(healthy.image.array, image)
    np.testing.assert_array_equal(planted_in(healthy).image.array, copy.image.array)
    assert not np.array_equal(planted_in(healthy, 1).image.array, copy.image.array)


def test_nothing_is_planted_where_the_kind_is_shown_or_not_known_to_be_lacking(cases):
    assert planted_in(cases[0].read()) is None
    healthy = cases[2].read()
    nothing_known = replace(healthy, labels=replace(healthy.labels, annotated=(find("Liver").id,)))
    assert planted_in(nothing_known) is None
    assert planted_in(replace(nothing_known, absent=frozenset({find("Liver Tumor").id}))) is not None


def test_planted_lesions_count_for_the_points_and_are_told_on_them(cases, found):
    seen = validate(KnowsDensity(), a_card(), cases, CPU, planted=3)
    point = seen.points["Liver Tumor"]
    assert seen.cases == found.cases == 4
    assert seen.organs == found.organs
    assert point.planted >= 6
    assert point.lesions == point.planted + found.points["Liver Tumor"].lesions
    assert point.cases == 4 + 2 * 3
    assert found.points["Liver Tumor"].planted == 0


def test_the_operating_point_finds_the_tumors_and_not_the_spots(found):
    point = found.points["Liver Tumor"]
    assert P_SPOT < point.threshold < P_TUMOR
    assert (point.sensitivity, point.false_lesions, point.cases, point.lesions, point.searched) == (
        1.0,
        0.0,
        4,
        2,
        True,
    )


def test_predict_at_the_point_marks_the_tumors_and_not_the_spots(found, cases):
    card = found.on(a_card(sha256="0" * 64))
    for case, ill in zip(cases, (True, True, False, False), strict=True):
        labels = Segmenter(KnowsDensity(), card, device="cpu")(case.read().image).tumors
        expected = np.zeros(labels.shape, bool)
        expected[TUMOR_BOX] = ill
        assert np.array_equal(labels == find("liver tumor").id, expected)
        assert not labels[SPOT_BOX].any()


def test_points_of_classes_that_no_case_annotates_stay_on_the_card(found):
    kidney = OperatingPoint(threshold=0.3, sensitivity=0.9, false_lesions=0.5, cases=9, lesions=9)
    card = found.on(a_card(operating_points={"Kidney Tumor": kidney, "Liver Tumor": kidney}))
    assert card.operating_points == {"Kidney Tumor": kidney, "Liver Tumor": found.points["Liver Tumor"]}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Give weights on disk, whose network is the one that knows density."""
    path = tmp_path / "toy.safetensors"
    checkpoint.save(path, {"some": torch.ones(3)}, a_card())
    monkeypatch.setattr(validation.checkpoint, "network", lambda _: KnowsDensity())
    return path


def test_calibrate_writes_the_card_and_leaves_the_weights_as_they_are(weights, cases, found):
    before = weights.read_bytes()
    card = calibrate(weights, cases, device="cpu")
    assert weights.read_bytes() == before
    read = checkpoint.load(weights).card  # which compares the sha256
    assert read == card
    assert read.operating_points["Liver Tumor"] == found.points["Liver Tumor"]


def test_calibrate_refuses_weights_without_tumors_and_cases_without_their_tumors(weights, cases, tmp_path):
    with pytest.raises(InputError, match="none of the 4 cases annotates"):
        checkpoint.save(weights, {"some": torch.ones(3)}, a_card(tumors=("Kidney Tumor",)))
        calibrate(weights, cases, device="cpu")
    with pytest.raises(WeightsError, match="knows no tumor"):
        calibrate("starter", cases, device="cpu")


def test_a_card_of_other_weights_is_not_put_beside_them(weights):
    with pytest.raises(WeightsError, match="other weights"):
        checkpoint.replace_card(weights, a_card(sha256="0" * 64))


def test_kinds_without_labels_get_a_threshold_by_false_lesions_alone_from_scans_that_are_known_to_lack_them(cases):
    card, vessel = a_card(), find("hepatic vessel tumor")
    assert vessel in card.unseen
    case = replace(cases[0].read(), absent=frozenset({vessel.id}))
    findings = look_at(case, KnowsDensity(), card, CPU, card.unseen)
    assert list(findings.unseen) == [vessel.name]  # of the others nobody knows whether they are there
    point = validation.Validation.of([findings]).points[vessel.name]
    assert (point.sensitivity, point.false_lesions, point.lesions, point.searched) == (None, 0.0, 0, True)


def test_only_the_last_look_at_weights_asks_for_kinds_without_labels(cases, monkeypatch):
    asked = []

    def looked(case, network, card, runtime, kinds=()):
        asked.append(tuple(kinds))
        return validation.CaseFindings({}, {})

    monkeypatch.setattr(validation, "look_at", looked)
    validate(KnowsDensity(), a_card(), cases, CPU)
    assert asked == [()] * 4
    validate(KnowsDensity(), a_card(), cases, CPU, unseen=True)
    assert asked[4:] == [a_card().unseen] * 4
