import pytest
import torch

from dsmseg.model.query_refinement import QueryRefinementDecoder, RefinedQueries

CHANNELS = (32, 16, 16, 8)
SIZES = (1, 2, 4, 8)
WIDTH = 24
SWITCHES = [{}, {"diffusion": False}, {"mask_prompt": False}]


def decoder(**switches: bool) -> QueryRefinementDecoder:
    torch.manual_seed(0)
    return QueryRefinementDecoder(level_channels=CHANNELS, width=WIDTH, feed_forward_width=16, **switches)


def inputs(
    batch: int = 2, sizes: tuple[int, ...] = SIZES
) -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(batch, c, n, n, n, generator=generator) for c, n in zip(CHANNELS, sizes, strict=True)]
    scores = [torch.randn(batch, n, n, n, generator=generator) for n in sizes]
    return levels, torch.randn(batch, 25, WIDTH, generator=generator), scores


def test_gives_25_organ_and_20_tumor_queries_for_levels_of_any_size():
    for sizes in (SIZES, (2, 3, 7, 13)):
        refined = decoder()(*inputs(sizes=sizes))
        assert refined.organs.shape == (2, 25, WIDTH)
        assert refined.tumors.shape == (2, 20, WIDTH)


@pytest.mark.parametrize("switches", SWITCHES)
def test_every_parameter_learns(switches):
    module = decoder(**switches)
    refined = module(*inputs(sizes=(2, 4, 8, 16)))
    target = torch.randn(2, 45, WIDTH, generator=torch.Generator().manual_seed(2))
    (torch.cat(refined, dim=1) - target).square().mean().backward()
    silent = [name for name, parameter in module.named_parameters() if not parameter.grad.abs().max() > 1e-8]
    assert silent == []


@pytest.mark.parametrize("switches", SWITCHES)
def test_a_case_does_not_depend_on_its_neighbors_in_the_batch(switches):
    module = decoder(**switches)
    levels, organs, scores = inputs()
    both = module(levels, organs, scores)
    alone = module([level[1:] for level in levels], organs[1:], [score[1:] for score in scores])
    torch.testing.assert_close(both.organs[1:], alone.organs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.tumors[1:], alone.tumors, rtol=1e-4, atol=1e-5)


def last_level_gradient(module: QueryRefinementDecoder, scores: list[torch.Tensor]) -> torch.Tensor:
    """Per voxel of F_4, how much the tumor queries depend on it."""
    levels, organs, _ = inputs()
    levels[-1].requires_grad_()
    refined = module(levels, organs, scores)
    refined.tumors.square().sum().mul(refined.tumors.sum()).backward()
    return levels[-1].grad.abs().sum(dim=1)


def test_tumor_queries_read_only_anomalous_voxels():
    scores = [torch.ones(2, n, n, n) for n in SIZES]
    scores[-1][:] = 0
    scores[-1][:, 3, 3, 3] = 1.0
    # Without the diffusion, a voxel's key and value come from that voxel alone.
    read = last_level_gradient(decoder(diffusion=False), scores) > 0
    assert torch.equal(read, scores[-1] > 0.5)


def test_without_the_mask_prompt_tumor_queries_read_every_voxel():
    scores = inputs()[2]
    assert bool((last_level_gradient(decoder(diffusion=False, mask_prompt=False), scores) > 0).all())


def test_without_the_mask_prompt_the_score_still_informs():
    module = decoder(mask_prompt=False)
    levels, organs, scores = inputs()
    other = [*scores[:-1], scores[-1].flip(1)]
    assert not torch.allclose(module(levels, organs, scores).tumors, module(levels, organs, other).tumors)


@pytest.mark.parametrize("switches", SWITCHES)
def test_constant_scores_and_features_stay_finite(switches):
    levels, organs, scores = inputs()
    refined = decoder(**switches)([level * 0 for level in levels], organs, [score * 0 for score in scores])
    assert all(bool(queries.isfinite().all()) for queries in refined)


@pytest.mark.parametrize("switches", SWITCHES)
def test_bf16_autocast_is_finite_forward_and_backward(switches):
    module = decoder(**switches)
    with torch.autocast("cpu", torch.bfloat16):
        refined = module(*inputs())
    assert isinstance(refined, RefinedQueries)
    torch.cat(refined, dim=1).square().sum().backward()
    assert all(bool(queries.isfinite().all()) for queries in refined)
    assert all(bool(parameter.grad.isfinite().all()) for parameter in module.parameters())


def test_organs_learn_of_the_image_through_the_tumor_queries():
    module = decoder()
    levels, organs, scores = inputs()
    other = [level.flip(0) for level in levels]
    assert not torch.allclose(module(levels, organs, scores).organs, module(other, organs, scores).organs)


def test_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="heads"):
        QueryRefinementDecoder(level_channels=(12, 8, 8, 8), width=WIDTH, feed_forward_width=16)
