"""A box of one patch in another: image and labels together, and only what both know stays known."""

from dataclasses import replace

import torch

from dsmseg.synthesis.noise import generator
from dsmseg.training.learning_patches import LearningPatch, mix

RIGHT, LEFT, LIVER = 1, 2, 5


def patch(value: float, known: list[int], merged=()) -> LearningPatch:
    """Give a patch of one value, all of which is each of the known classes."""
    masks = torch.zeros(45, 16, 16, 16, dtype=torch.bool)
    masks[known] = True
    annotated = torch.zeros(45, dtype=torch.bool)
    annotated[known] = True
    return LearningPatch(torch.full((2, 16, 16, 16), value), masks, annotated, merged, f"{value:g}")


def test_labels_come_with_the_image_and_a_box_is_never_all_nor_nothing() -> None:
    one, other = patch(0.0, [LIVER]), patch(1.0, [LIVER])
    other.masks[LIVER] = False
    for seed in range(20):
        mixed = mix(one, other, generator("mix", seed))
        inside = mixed.image[0] == 1
        assert torch.equal(inside, mixed.image[1] == 1)
        assert torch.equal(mixed.masks[LIVER], ~inside)
        assert 0.01 < inside.float().mean() < 0.4
    assert not one.image.any()
    assert one.masks[LIVER].all()


def test_only_what_both_know_stays_known() -> None:
    mixed = mix(patch(0.0, [LIVER, RIGHT]), patch(1.0, [LIVER, LEFT]), generator("known"))
    assert mixed.annotated.nonzero().flatten().tolist() == [LIVER]
    assert not mixed.masks[[RIGHT, LEFT]].any()


def test_voxels_of_which_nothing_is_known_stay_so_where_they_come_to_lie() -> None:
    one, other = patch(0.0, [LIVER]), patch(1.0, [LIVER])
    unknown = torch.zeros(16, 16, 16, dtype=torch.bool)
    unknown[8:] = True
    mixed = mix(one, replace(other, known=~unknown), generator("unknown"))
    assert torch.equal(mixed.known, ~(unknown & (mixed.image[0] == 1)))
    mixed = mix(replace(one, known=~unknown), other, generator("unknown"))
    assert torch.equal(mixed.known, ~(unknown & (mixed.image[0] == 0)))
    assert mix(one, other, generator("known")).known is None


def test_a_pair_that_one_of_them_merges_is_one_union_in_all_of_the_patch() -> None:
    apart, merged = patch(0.0, [RIGHT, LEFT]), patch(1.0, [RIGHT, LEFT], merged=((RIGHT, LEFT),))
    apart.masks[LEFT] = False
    for mixed in (mix(apart, merged, generator("a")), mix(merged, apart, generator("b"))):
        assert mixed.merged == ((RIGHT, LEFT),)
        assert torch.equal(mixed.masks[RIGHT], mixed.masks[LEFT])
        assert mixed.masks[RIGHT].all()
