"""Probabilities on the working grid: those that predict would cut at thresholds."""

import numpy as np
import torch

from dsmseg.inference import Segmenter
from dsmseg.inference.runtime import Runtime
from dsmseg.inference.working_maps import LEAST_PROBABILITY, working_maps
from dsmseg.volume import Volume

CPU = Runtime(torch.device("cpu"), torch.float32)
TUMOR_HU = 350.0


def a_volume(hu) -> Volume:
    return Volume.from_own(hu, np.diag([3.0, 3.0, 3.0, 1.0]))


def placed(maps, field, shape):
    """Put what lies on the working grid, at the spacing of the scan, back on the scan's."""
    whole = np.zeros(shape, field.dtype)
    start = np.rint(maps.grid.affine[:3, 3] / 3).astype(int)
    whole[tuple(slice(first, first + size) for first, size in zip(start, field.shape, strict=True))] = field
    return whole


def test_cut_at_one_half_they_are_what_predict_labels_and_tumors_far_from_their_hosts_are_zero(
    make_network, make_card, phantom
):
    hu = phantom()
    hu[12:16, 16:20, 16:20] = TUMOR_HU
    hu[38:42, 30:34, 16:20] = TUMOR_HU  # far from the liver
    card = make_card(stage=2, tumors=("Liver Tumor",))
    maps = working_maps(make_network(stage=2), card, a_volume(hu), CPU)
    segmentation = Segmenter(make_network(stage=2), card, device="cpu")(a_volume(hu))
    assert np.array_equal(placed(maps, maps.organs, hu.shape), segmentation.organs)
    scores = placed(maps, maps.tumors["Liver Tumor"], hu.shape)
    assert np.array_equal(scores > 0.5, segmentation.tumors > 0)
    assert not scores[36:].any()


def test_they_are_the_networks_probabilities_above_the_least(make_network, make_card, phantom):
    hu = phantom()
    hu[12:16, 16:20, 16:20] = TUMOR_HU + 36
    maps = working_maps(make_network(stage=2), make_card(stage=2, tumors=("Liver Tumor",)), a_volume(hu), CPU)
    scores = placed(maps, maps.tumors["Liver Tumor"], hu.shape)
    inside = np.zeros(hu.shape, bool)
    inside[12:16, 16:20, 16:20] = True
    np.testing.assert_allclose(scores[inside], 1 / (1 + np.exp(2)), atol=1e-3)
    assert scores[scores > 0].min() >= LEAST_PROBABILITY


def test_weights_of_stage_1_have_no_tumors(make_network, make_card, phantom):
    maps = working_maps(make_network(), make_card(), a_volume(phantom()), CPU)
    assert maps.tumors == {}
    assert maps.organs.any()
