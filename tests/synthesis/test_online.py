"""Phantoms on demand: a patch of the plan's size, decided by its stream, thin slabs included."""

import numpy as np
import pytest
import torch

from dsmseg.synthesis.bodies import PatchPlan
from dsmseg.synthesis.noise import generator
from dsmseg.synthesis.online import draw_phantom
from dsmseg.taxonomy import ORGANS, find

PLAN = PatchPlan(size=(24, 36, 28), spacing=4.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("truncation", [0.0, 1.0])
def test_a_patch_has_the_size_of_the_plan_and_finite_hu(seed, truncation):
    plan = PatchPlan(size=PLAN.size, spacing=PLAN.spacing, truncation=truncation)
    sample = draw_phantom(plan, generator("size", seed))
    assert sample.image.shape == sample.organs.shape == sample.inside.shape == PLAN.size
    assert (sample.image.dtype, sample.organs.dtype) == (torch.float32, torch.uint8)
    assert torch.isfinite(sample.image).all()
    assert -1400 < sample.image.min() < sample.image.max() < 3500
    assert sample.inside.all()
    assert sample.organs.max() <= 25
    assert sample.annotated == tuple(one.id for one in ORGANS)


def test_the_same_stream_gives_the_same_bytes_and_goes_on_to_another_patient():
    random, again = generator("stream"), generator("stream")
    first, second, repeated = draw_phantom(PLAN, random), draw_phantom(PLAN, random), draw_phantom(PLAN, again)
    assert first.image.numpy().tobytes() == repeated.image.numpy().tobytes()
    assert torch.equal(first.organs, repeated.organs)
    assert (first.organs != second.organs).float().mean() > 0.02


def test_a_truncated_scan_repeats_its_first_and_last_slice():
    plan = PatchPlan(size=PLAN.size, spacing=PLAN.spacing, truncation=1.0)
    for seed in range(6):
        sample = draw_phantom(plan, generator("thin", seed))
        for part in (sample.image.numpy(), sample.organs.numpy()):
            moves = np.flatnonzero((part[:, :, 1:] != part[:, :, :-1]).any(axis=(0, 1)))
            assert len(moves) == 0 or moves[-1] - moves[0] < plan.size[2] * 2 / 3


def test_a_patch_holds_the_air_and_the_organs_that_hu_tell_of():
    airy = 0
    for seed in range(12):
        sample = draw_phantom(PLAN, generator("hu", seed))
        lung = (sample.organs == 16) | (sample.organs == 17)
        if lung.sum() > 500:
            airy += 1
            assert sample.image[lung].median() < -500
        liver = sample.organs == 6
        if liver.sum() > 500:
            assert -40 < sample.image[liver].median() < 260
    assert airy >= 2


def test_patches_lie_near_the_organs_of_the_plan_as_often_as_it_says():
    near = PatchPlan(size=(12, 12, 12), spacing=4.0, near=(find("Bladder").id,), near_share=1.0, reach=5.0)
    seen = [(draw_phantom(near, generator("near", seed)).organs == find("Bladder").id).any() for seed in range(6)]
    assert np.mean(seen) > 0.8
