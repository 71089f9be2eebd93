"""Deformation: one field for image and labels, replayable from its seed."""

import torch

from dsmseg.synthesis.warp import WarpRange, random_warp, sample_linear, sample_nearest

STILL = WarpRange(rotation=0.0, scale=(1.0, 1.0), stretch=0.0, elastic=0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_deformation_a_patch_is_a_crop() -> None:
    source = torch.arange(20**3, dtype=torch.float32).reshape(20, 20, 20)
    offsets = random_warp((5, 5, 5), 1.0, STILL, generator())
    positions = offsets + torch.tensor([10.0, 9.0, 8.0])
    crop = source[8:13, 7:12, 6:11]
    torch.testing.assert_close(sample_linear(source, positions), crop, atol=2e-2, rtol=0)
    values, inside = sample_nearest(source.long(), positions)
    assert torch.equal(values, crop.long())
    assert inside.all()


def test_outside_of_the_source_there_is_nothing() -> None:
    values, inside = sample_nearest(torch.ones(4, 4, 4, dtype=torch.long), torch.tensor([[[[-1.0, 1, 1], [3, 3, 3]]]]))
    assert values.flatten().tolist() == [0, 1]
    assert inside.flatten().tolist() == [False, True]


def test_a_warp_is_decided_by_its_seed() -> None:
    first, again, other = (random_warp((6, 6, 6), 3.0, WarpRange(), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_warp_never_mirrors_the_body() -> None:
    for seed in range(50):
        offsets = random_warp((3, 3, 3), 10.0, WarpRange(elastic=0.0), generator(seed))
        steps = torch.stack([offsets[2, 1, 1], offsets[1, 2, 1], offsets[1, 1, 2]]) - offsets[1, 1, 1]
        assert torch.linalg.det(steps) > 0
