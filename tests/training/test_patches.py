"""Batches follow from seed and step."""

import pytest
import torch

from dsmseg.synthesis.anatomy import totalsegmentator
from dsmseg.synthesis.bodies import PatchPlan, read_body
from dsmseg.training.patches import BatchSource


@pytest.fixture
def source(recipe_file):
    body = read_body(recipe_file.with_name("labels.nii.gz"), recipe_file.with_name("ct.nii.gz"), totalsegmentator())

    def make(seed: int = 0) -> BatchSource:
        return BatchSource(
            [body],
            plan=lambda step: PatchPlan(size=(32, 32, 32)),
            hu_windows=[(-175.0, 250.0), (-1000.0, 1000.0)],
            organs=25,
            batch=(1, 1),
            reuse=3,
            seed=seed,
        )

    return make


def test_a_step_has_the_same_batch_in_whatever_order_it_is_asked_for(source) -> None:
    forward, jumping = source(), source()
    images = {step: forward[step].image for step in range(30)}
    for step in (25, 3, 12):
        assert torch.equal(jumping[step].image, images[step])
    assert not torch.equal(source(1)[3].image, images[3])


def test_a_draw_is_used_several_times_but_never_twice_the_same(source) -> None:
    batches = source()
    first, again = batches[0], batches[8]
    assert torch.equal(first.labels.masks, batches[16].labels.masks)
    assert torch.equal(first.labels.masks, again.labels.masks)
    assert not torch.equal(first.image, again.image)
    assert not torch.equal(first.labels.masks, batches[24].labels.masks)


def test_what_the_label_map_does_not_annotate_is_unknown(source) -> None:
    labels = source()[0].labels
    assert labels.annotated.sum(1).tolist() == [20, 20]
    assert not labels.masks[~labels.annotated].any()


def test_a_batch_has_a_channel_for_each_hu_window(source) -> None:
    image = source()[0].image
    assert image.shape == (2, 2, 32, 32, 32)
    assert image.min() == 0.0
    assert image.max() <= 1.0
