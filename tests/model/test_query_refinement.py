"""§ 4.2.2: Eq. 18 and 19 against plain float64 formulas, and the DQR decoder."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dsmseg.model.anomaly_prompt import mask_prompt
from dsmseg.model.query_refinement import (
    FeatureFusion,
    GuidedDiffusion,
    ProjectedFeature,
    Queries,
    QueryRefinementBlock,
    QueryRefinementDecoder,
    RefinedQueries,
    TumorResponse,
)

CHANNELS = (32, 16, 16, 8)
FINEST = 6
SIZES = (1, 2, 4, 8)
WIDTH = 24
SWITCHES = [{}, {"diffusion": False}, {"mask_prompt": False}, {"prompt": "organs"}]


def decoder(**switches: bool) -> QueryRefinementDecoder:
    torch.manual_seed(0)
    sizes = {"level_channels": CHANNELS, "finest_channels": FINEST, "width": WIDTH, "feed_forward_width": 16}
    return QueryRefinementDecoder(**sizes, **switches)


def inputs(
    batch: int = 2, sizes: tuple[int, ...] = SIZES
) -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Levels, organ queries, scores, and the map at stride 2, which masks are read from."""
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(batch, c, n, n, n, generator=generator) for c, n in zip(CHANNELS, sizes, strict=True)]
    scores = [torch.randn(batch, n, n, n, generator=generator) for n in sizes]
    queries = torch.randn(batch, 25, WIDTH, generator=generator)
    return levels, queries, scores, torch.randn(batch, FINEST, *[2 * sizes[-1]] * 3, generator=generator)


def everything(refined: RefinedQueries) -> torch.Tensor:
    """All that the decoder gives, in one row."""
    parts = (refined.organs, refined.tumors, *refined.responses, refined.finest)
    return torch.cat([part.flatten().float() for part in parts])


def test_gives_25_organ_and_20_tumor_queries_for_levels_of_any_size():
    for sizes in (SIZES, (2, 3, 7, 13)):
        refined = decoder()(*inputs(sizes=sizes))
        assert refined.organs.shape == (2, 25, WIDTH)
        assert refined.tumors.shape == (2, 20, WIDTH)
        assert [one.shape for one in refined.responses] == [(2, 20, n, n, n) for n in sizes[-2:]]
        assert refined.finest.shape == (2, FINEST, *[2 * sizes[-1]] * 3)


@pytest.mark.parametrize("switches", SWITCHES)
def test_every_parameter_learns(switches):
    module = decoder(**switches)
    refined = module(*inputs(sizes=(2, 4, 8, 16)))
    target = torch.randn(everything(refined).shape, generator=torch.Generator().manual_seed(2))
    (everything(refined) - target).square().mean().backward()
    silent = [name for name, parameter in module.named_parameters() if not parameter.grad.abs().max() > 1e-8]
    assert silent == []


@pytest.mark.parametrize("switches", SWITCHES)
def test_a_case_does_not_depend_on_its_neighbors_in_the_batch(switches):
    module = decoder(**switches)
    levels, organs, scores, finest = inputs()
    both = module(levels, organs, scores, finest)
    alone = module([level[1:] for level in levels], organs[1:], [score[1:] for score in scores], finest[1:])
    torch.testing.assert_close(both.organs[1:], alone.organs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.tumors[1:], alone.tumors, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.finest[1:], alone.finest, rtol=1e-4, atol=1e-5)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def along_axis(line: list[torch.Tensor], size: int) -> list[torch.Tensor]:
    """Linear interpolation of a row of slices to ``size`` of them, by the position of voxel centers."""
    result = []
    for index in range(size):
        place = min(max((index + 0.5) * len(line) / size - 0.5, 0.0), len(line) - 1.0)
        low = math.floor(place)
        high = min(low + 1, len(line) - 1)
        result.append(line[low] * (1 - (place - low)) + line[high] * (place - low))
    return result


def trilinear(feature: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    for axis, length in enumerate(size, start=2):
        feature = torch.stack(along_axis(list(feature.unbind(axis)), length), dim=axis)
    return feature


@pytest.mark.equation(18)
@settings(max_examples=15)
@given(seed=st.integers(0, 999), sizes=st.tuples(*[st.tuples(st.integers(1, 3), st.integers(1, 5))] * 3))
def test_fusion_is_the_convolution_of_the_sum_upsampled_and_added_to_the_backbones_map(seed, sizes):
    torch.manual_seed(seed)
    fusion = FeatureFusion(3, 2).double()
    coarse, fine = zip(*sizes, strict=True)
    enhanced, following = random(2, 3, *coarse, seed=seed), random(2, 2, *fine, seed=seed + 1)
    feature, deeper = fusion(enhanced, following)
    kernel = fusion.convolution.weight[:, :, 0, 0, 0]
    convolved = torch.stack(
        [sum(kernel[k, c] * enhanced[:, c] for c in range(3)) + fusion.convolution.bias[k] for k in range(2)], dim=1
    )
    torch.testing.assert_close(deeper, trilinear(convolved, fine))
    torch.testing.assert_close(feature, following + trilinear(convolved, fine))


def block(**switches: bool) -> QueryRefinementBlock:
    torch.manual_seed(0)
    made = QueryRefinementBlock(channels=4, width=6, heads=2, feed_forward_width=8, **switches).double()
    torch.nn.init.normal_(made.context_norm.weight)
    torch.nn.init.normal_(made.to_level[0].weight)
    return made


def plain_eq_19(layer: QueryRefinementBlock, tumors: torch.Tensor, context: torch.Tensor, mask: list[float]):
    """Eq. 19 of one item: T + W Softmax(M + Q K^T / sqrt(d)) V with two heads of d = 2 channels."""
    attention, (norm, to_level) = layer.cross_attention, layer.to_level
    level = functional.layer_norm(tumors, (6,), norm.weight, norm.bias) @ to_level.weight.T + to_level.bias
    query = level @ attention.query.weight.T + attention.query.bias
    key, value = (context @ attention.key_value.weight.T + attention.key_value.bias).split(4, dim=1)
    rows = []
    for one in query:
        heads = []
        for part in (slice(0, 2), slice(2, 4)):
            logits = [(one[part] @ k[part]).item() / math.sqrt(2) + m for k, m in zip(key, mask, strict=True)]
            weights = [math.exp(logit) / sum(math.exp(other) for other in logits) for logit in logits]
            heads.append(sum(w * v[part] for w, v in zip(weights, value, strict=True)))
        rows.append(torch.cat(heads) @ attention.output.weight.T + attention.output.bias)
    return tumors + torch.stack(rows) @ layer.from_level.weight.T + layer.from_level.bias


@pytest.mark.equation(19)
@pytest.mark.parametrize("switches", [{}, {"mask_prompt": False}])
def test_tumor_queries_read_the_concatenated_maps_under_the_mask(switches):
    layer = block(**switches)
    tumors, score = random(2, 5, 6, seed=0), random(2, 2, 3, 1, seed=1)
    feature, diffused = random(2, 4, 2, 3, 1, seed=2), random(2, 4, 2, 3, 1, seed=3)
    context, mask = layer.context(feature, diffused, score)
    read = layer.attend(tumors, context, mask)
    for item in range(2):
        joined = torch.cat([feature[item], diffused[item]]).flatten(1).T
        plain = functional.layer_norm(joined, (8,), layer.context_norm.weight, layer.context_norm.bias)
        anomaly = score[item].flatten()
        scaled = (anomaly - anomaly.min()) / (anomaly.max() - anomaly.min())
        opened = [0.0 if switches or value > 0.5 else -math.inf for value in scaled.tolist()]
        if switches:
            plain = torch.cat([plain, scaled[:, None]], dim=1)
        torch.testing.assert_close(context[item], plain)
        torch.testing.assert_close(read[item], plain_eq_19(layer, tumors[item], plain, opened))


def test_a_block_lets_tumors_read_then_organs_and_tumors_exchange_and_passes_on_the_sum_of_the_maps():
    layer = block()
    organs, tumors, score = random(2, 3, 6, seed=0), random(2, 5, 6, seed=1), random(2, 2, 2, 2, seed=2)
    feature, deeper = random(2, 4, 2, 2, 2, seed=3), random(2, 4, 2, 2, 2, seed=4)
    refined, enhanced, response = layer(feature, deeper, score, Queries(organs, tumors))
    diffused = layer.enhance(feature, deeper)
    read = layer.attend(tumors, layer.context(feature, diffused, score)[0], mask_prompt(score)[:, None, None])
    exchanged = layer.self_attention(torch.cat([organs, read], dim=1))
    torch.testing.assert_close(enhanced, feature + diffused)
    torch.testing.assert_close(torch.cat(refined, dim=1), exchanged)
    assert refined.organs.shape == organs.shape
    assert response is None


def test_where_it_is_asked_for_each_tumor_query_answers_to_each_voxel_of_a_level():
    layer = block(responds_as=5)
    organs, tumors, score = random(2, 3, 6, seed=0), random(2, 5, 6, seed=1), random(2, 2, 3, 1, seed=2)
    feature, deeper = random(2, 4, 2, 3, 1, seed=3), random(2, 4, 2, 3, 1, seed=4)
    refined, _, response = layer(feature, deeper, score, Queries(organs, tumors))
    context, _ = layer.context(feature, layer.enhance(feature, deeper), score)
    for item, query, voxel in torch.ones(2, 5, 6).nonzero().tolist():
        product = layer.response.query(refined.tumors[item, query]) @ context[item, voxel] / math.sqrt(8)
        place = voxel // 3, voxel % 3, 0
        assert response[item, query][voxel // 3, voxel % 3, 0].item() == pytest.approx(product.item() - 2.0), place


def test_a_tumor_s_response_does_not_read_the_anomaly_score():
    torch.manual_seed(0)
    module = TumorResponse(width=6, context=4, tumors=3).double()
    tumors, context = random(1, 3, 6, seed=0), random(1, 7, 5, seed=1)
    other = torch.cat([context[..., :4], random(1, 7, 1, seed=2)], dim=-1)
    torch.testing.assert_close(module(tumors, context), module(tumors, other))


def test_the_guidance_is_the_projected_deeper_map_at_unit_scale_of_each_case():
    torch.manual_seed(0)
    guided = GuidedDiffusion(4).double()
    feature, deeper = random(2, 4, 2, 3, 2, seed=0), random(2, 4, 2, 3, 2, seed=1)
    guidance = torch.einsum("kc,bcxyz->bkxyz", guided.project.weight[:, :, 0, 0, 0], deeper)
    for item in range(2):
        guidance[item] = (guidance[item] - guidance[item].mean()) / (guidance[item].var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(guided(feature, deeper), guided.diffuse(feature, guidance))


@pytest.mark.equation(18)
def test_each_level_is_fused_with_and_guided_by_the_one_before_and_the_first_guides_itself():
    module = decoder()
    levels, organs, scores, finest = inputs()
    refined = module(levels, organs, scores, finest)
    queries, feature, deeper = Queries(organs, module.tumor_queries.expand(2, -1, -1)), levels[0], levels[0]
    for index, following in enumerate([*levels[1:], finest]):
        queries, enhanced, _ = module.blocks[index](feature, deeper, scores[index], queries)
        feature, deeper = module.fuse[index](enhanced, following)
    for mine, expected in zip(refined[:2], queries, strict=True):
        torch.testing.assert_close(mine, functional.layer_norm(expected, (WIDTH,)))
    torch.testing.assert_close(refined.finest, feature)


@pytest.mark.equation(18)
def test_what_the_diffusion_enhances_at_level_4_reaches_the_map_that_masks_are_read_from():
    module = decoder()
    levels, organs, scores, finest = inputs()
    levels[-1].requires_grad_()
    refined = module(levels, organs, scores, finest)
    (gradient,) = torch.autograd.grad(refined.finest.square().sum(), levels[-1])
    assert bool((gradient != 0).any())
    # Little of it at first, so that Stage 2 begins with the masks of Stage 1.
    assert (refined.finest - finest).abs().max() < 0.1 * finest.std()


def last_level_gradient(module: QueryRefinementDecoder, scores: list[torch.Tensor]) -> torch.Tensor:
    """Per voxel of F_4, how much the tumor queries depend on it."""
    levels, organs, _, finest = inputs()
    levels[-1].requires_grad_()
    refined = module(levels, organs, scores, finest)
    refined.tumors.square().sum().mul(refined.tumors.sum()).backward()
    return levels[-1].grad.abs().sum(dim=1)


def test_tumor_queries_read_only_anomalous_voxels():
    scores = [torch.ones(2, n, n, n) for n in SIZES]
    scores[-1][:] = 0
    scores[-1][:, 3, 3, 3] = 1.0
    # Without the diffusion, a voxel's key and value come from that voxel alone.
    read = last_level_gradient(decoder(diffusion=False), scores) > 0
    assert torch.equal(read, scores[-1] > 0.5)


def test_a_prompt_of_organs_lets_tumor_queries_read_those_and_a_voxel_around_them():
    scores = inputs()[2]
    scores[-1] = torch.ones_like(scores[-1])
    scores[-1][:, 0, 0, 0] = 0.0  # the one voxel that an organ's query answers for
    read = last_level_gradient(decoder(diffusion=False, prompt="organs"), scores) > 0
    expected = torch.zeros_like(scores[-1], dtype=torch.bool)
    expected[:, :2, :2, :2] = True
    assert torch.equal(read, expected)


def test_without_the_mask_prompt_tumor_queries_read_every_voxel():
    scores = inputs()[2]
    assert bool((last_level_gradient(decoder(diffusion=False, mask_prompt=False), scores) > 0).all())


def test_without_the_mask_prompt_the_score_still_informs():
    module = decoder(mask_prompt=False)
    levels, organs, scores, finest = inputs()
    other = [*scores[:-1], scores[-1].flip(1)]
    first, second = module(levels, organs, scores, finest), module(levels, organs, other, finest)
    assert not torch.allclose(first.tumors, second.tumors)


@pytest.mark.parametrize("switches", SWITCHES)
def test_constant_scores_and_features_stay_finite(switches):
    levels, organs, scores, finest = inputs()
    nothing = [level * 0 for level in levels], organs, [score * 0 for score in scores], finest * 0
    assert bool(everything(decoder(**switches)(*nothing)).isfinite().all())


@pytest.mark.parametrize("switches", SWITCHES)
def test_bf16_autocast_is_finite_forward_and_backward(switches):
    module = decoder(**switches)
    with torch.autocast("cpu", torch.bfloat16):
        refined = module(*inputs())
    assert isinstance(refined, RefinedQueries)
    everything(refined).square().sum().backward()
    assert bool(everything(refined).isfinite().all())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in module.parameters())


def test_organs_learn_of_the_image_through_the_tumor_queries():
    module = decoder()
    levels, organs, scores, finest = inputs()
    first, second = (module(one, organs, scores, finest) for one in (levels, [level.flip(0) for level in levels]))
    assert not torch.allclose(first.organs, second.organs)


def test_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="heads"):
        QueryRefinementDecoder(level_channels=(12, 8, 8, 8), finest_channels=4, width=WIDTH, feed_forward_width=16)


@pytest.mark.parametrize("kind", [GuidedDiffusion, ProjectedFeature])
def test_row_4_projects_the_feature_itself_and_what_guides_row_6_does_not_enter_it(kind):
    torch.manual_seed(0)
    module = kind(3).double()
    feature, deeper, other = (random(1, 3, 2, 3, 2, seed=seed) for seed in range(3))
    guided = not torch.equal(module(feature, deeper), module(feature, other))
    assert guided == (kind is GuidedDiffusion)
    if kind is ProjectedFeature:
        expected = torch.einsum("kc,bcxyz->bkxyz", module.project.weight[:, :, 0, 0, 0], feature)
        expected = expected + module.project.bias[:, None, None, None]
        torch.testing.assert_close(module(feature, deeper), expected)
