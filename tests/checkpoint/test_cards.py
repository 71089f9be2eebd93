"""What a card says of operating points."""

import pytest
from pydantic import ValidationError

from dsmseg.checkpoint import Card, OperatingPoint

FIELDS = {
    "name": "toy", "version": "1", "preset": "starter", "stage": 2, "organs": ("Liver",), "tumors": ("Liver Tumor",),
    "text_encoder": "all-MiniLM-L6-v2", "spacing_mm": (3.0, 3.0, 3.0), "hu_windows": ((-175.0, 250.0),),
    "window": (32, 32, 32), "training_data": (), "licence": "CC0-1.0", "figures": {},
}  # fmt: skip


def test_a_tumor_without_a_point_is_labeled_above_one_half_whatever_its_size():
    point = Card.model_validate(FIELDS).point("Liver Tumor")
    assert (point.threshold, point.least_volume_ml, point.least_score, point.searched) == (0.5, 0.0, 0.0, True)


def test_points_come_back_from_json_as_they_were():
    point = OperatingPoint(threshold=0.2, least_score=0.3, sensitivity=0.7, false_lesions=0.5, cases=8, lesions=10)
    card = Card.model_validate(FIELDS | {"operating_points": {"Liver Tumor": point}})
    assert Card.model_validate_json(card.model_dump_json()) == card
    assert card.point("Liver Tumor") == point


@pytest.mark.parametrize(
    "points",
    [
        {"Liver": {}},  # an organ
        {"Liver Tumor": {"threshold": 0.0}},
        {"Liver Tumor": {"threshold": 1.0}},
        {"Liver Tumor": {"least_volume_ml": -1.0}},
        {"Liver Tumor": {"least_score": 1.5}},
        {"Liver Tumor": {"searched": False}},  # without a reason
        {"Liver Tumor": {"treshold": 0.3}},
    ],
)
def test_points_that_make_no_sense_are_refused(points):
    with pytest.raises(ValidationError):
        Card.model_validate(FIELDS | {"operating_points": points})


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"Hepatic Vessel Tumor"}),  # the liver hosts them
        ({"organs": ("Liver", "Pancreas")}, {"Hepatic Vessel Tumor", "Pancreas Tumor"}),
        ({"stage": 1, "tumors": ()}, set()),
        ({"readings": {"deviation": False}}, set()),
        ({"method": "universal"}, set()),
    ],
)
def test_weights_answer_for_unlabelled_kinds_whose_main_host_they_know_if_they_can_tell_any_tumor(changes, names):
    assert {one.name for one in Card.model_validate(FIELDS | changes).unseen} == names
