"""Probabilities on the scan's own grid, also of classes that weights were not trained for."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from dsmseg.checkpoint import Card
from dsmseg.inference import soft_maps
from dsmseg.inference.soft_maps import ANY_TUMOR, UnseenRule
from dsmseg.model import DSMOutput
from dsmseg.model.text_alignment import TextAlignment
from dsmseg.taxonomy import CLASSES, find
from dsmseg.volume import Volume

SHAPE = (40, 44, 36)


class ByDensity(nn.Module):
    """Class k is where the image is above a threshold that grows with k; the last tumor is nowhere."""

    def __init__(self, alignment=None):
        super().__init__()
        self.text_alignment = alignment
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, image):
        logits = torch.cat([(image - 0.5) * 20 - 0.1 * number for number in range(45)], dim=1)
        if self.text_alignment is not None:
            self.text_alignment(torch.eye(45)[None])
        anomaly = -nn.functional.avg_pool3d(image, 4)[:, 0]
        return DSMOutput(logits[:, :25], None, [], anomaly, logits[:, 25:], None)


def a_card(**changes) -> Card:
    content = {
        "name": "toy", "version": "1", "preset": "starter", "stage": 2, "organs": ("Liver", "Spleen"),
        "tumors": ("Liver Tumor", "Kidney Tumor"), "text_encoder": "all-MiniLM-L6-v2", "spacing_mm": (3.0, 3.0, 3.0),
        "hu_windows": ((-1000.0, 1000.0),), "window": (32, 32, 32), "training_data": (), "licence": "CC0-1.0",
        "figures": {},
    }  # fmt: skip
    return Card(**(content | changes))


@pytest.fixture
def volume() -> Volume:
    hu = np.full(SHAPE, -1000, dtype=np.float32)
    hu[4:-4, 4:-4, 2:-2] = 0
    hu[12:24, 12:24, 10:20] = 400
    return Volume.from_own(hu, np.diag([3.0, 3.0, 3.0, 1.0]))


def expected(hu, number):
    inside = np.clip((hu + 1000) / 2000, 0, 1)
    return 1 / (1 + np.exp(-((inside - 0.5) * 20 - 0.1 * number)))


def test_a_known_class_has_its_own_probability_and_is_zero_outside_of_the_body(volume):
    maps = soft_maps(ByDensity(), a_card(), volume, [find("Spleen"), find("Liver Tumor")])
    assert set(maps.probabilities) == {"Spleen", "Liver Tumor"}
    assert maps.answered_by == {}
    for name, found in maps.probabilities.items():
        assert found.shape == SHAPE
        body = volume.array > -500
        np.testing.assert_allclose(found[body], expected(volume.array, find(name).id - 1)[body], atol=1e-4)
        assert not found[:2].any()
    assert 0 <= maps.unexplained.min() <= maps.unexplained.max() <= 1


def test_maps_lie_on_the_grid_of_the_scan(volume):
    fine = Volume.from_own(np.kron(volume.array, np.ones((2, 2, 2))).astype(np.float32), np.diag([1.5, 1.5, 1.5, 1]))
    maps = soft_maps(ByDensity(), a_card(), fine, [find("Liver")])
    assert maps.probabilities["Liver"].shape == fine.array.shape
    assert maps.probabilities["Liver"][36, 36, 30] > 0.9


def saying(**others: str) -> ByDensity:
    """A network whose query of each class says its prompt, but some say another's."""
    texts = torch.randn(45, 16, generator=torch.Generator().manual_seed(0))
    alignment = TextAlignment(texts, query_width=45)
    with torch.no_grad():
        kernel = (texts - texts.mean(dim=0)).clone()
        for query, text in others.items():
            kernel[find(query.replace("_", " ")).id - 1] = kernel[find(text).id - 1]
        alignment.projection.weight.copy_(kernel.T)
    return ByDensity(alignment)


def test_an_unknown_class_is_answered_by_the_query_that_fits_its_prompt(volume):
    network = saying(Kidney_Tumor="Colon Tumor")
    maps = soft_maps(network, a_card(), volume, [find("Colon Tumor"), find("Liver Tumor")])
    assert maps.answered_by == {"Colon Tumor": "Kidney Tumor"}
    of_query = soft_maps(network, a_card(), volume, [find("Kidney Tumor")]).probabilities["Kidney Tumor"]
    assert np.array_equal(maps.probabilities["Colon Tumor"], of_query)


def test_an_organs_query_answers_for_a_tumor_only_where_any_query_may(volume):
    network, asked = saying(Spleen="Colon Tumor"), [find("Colon Tumor"), find("Pancreas")]
    answers = {
        rule: soft_maps(network, a_card(), volume, asked, unseen=rule).answered_by for rule in get_args(UnseenRule)
    }
    assert answers["any-query"]["Colon Tumor"] == "Spleen"
    assert answers["same-kind"]["Colon Tumor"] in {"Liver Tumor", "Kidney Tumor"}
    assert answers["same-kind"]["Pancreas"] in {"Liver", "Spleen"}
    assert answers["any-tumor"] == dict.fromkeys(("Colon Tumor", "Pancreas"), ANY_TUMOR)


def test_without_a_query_of_its_kind_nothing_answers(volume):
    card = a_card(tumors=())
    maps = soft_maps(saying(), card, volume, [find("Colon Tumor")], unseen="same-kind")
    assert maps.answered_by == {"Colon Tumor": ANY_TUMOR}
    assert not maps.probabilities["Colon Tumor"].any()


def test_without_text_an_unknown_tumor_is_any_tumor(volume):
    maps = soft_maps(ByDensity(), a_card(), volume, [find("Colon Tumor")])
    assert maps.answered_by == {"Colon Tumor": ANY_TUMOR}
    known = soft_maps(ByDensity(), a_card(), volume, [find("Liver Tumor"), find("Kidney Tumor")]).probabilities
    highest = np.maximum(known["Liver Tumor"], known["Kidney Tumor"])
    np.testing.assert_allclose(maps.probabilities["Colon Tumor"], highest, atol=1e-6)


def test_a_baseline_answers_by_its_own_rule(volume):
    maps = soft_maps(ByDensity(), a_card(method="universal"), volume, [find("Colon Tumor")])
    assert maps.answered_by == {"Colon Tumor": "Colon Tumor"}
    number = next(place for place, one in enumerate(CLASSES) if one.name == "Colon Tumor")
    found = maps.probabilities["Colon Tumor"][16, 16, 15]
    assert found == pytest.approx(expected(400.0, number), abs=1e-4)
