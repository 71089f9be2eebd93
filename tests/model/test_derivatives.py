"""No way of a gradient is cut: each module has the derivative that finite differences give, in double precision."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dsmseg.model import PRESETS, TABLE_5, build, kmax_mamba
from dsmseg.model.attention import MultiHeadAttention, SelfAttentionBlock
from dsmseg.model.features import PixelFeatures
from dsmseg.model.kmax_mamba import Clusters, KMaxMambaBlock, KMaxMambaDecoder, MaskTransformerBlock, OrganAnswers
from dsmseg.model.query_refinement import FeatureFusion, Queries, QueryRefinementBlock, QueryRefinementDecoder
from dsmseg.model.state_space import SelectiveStateSpace
from dsmseg.model.swin_transformer import PatchEmbedding, PatchMerging, SwinTransformerBlock
from dsmseg.model.swin_unetr import ResidualBlock, UpBlock

SMALL = replace(
    PRESETS["starter"], channels=(8, 8, 16, 16, 16, 16), query_width=16, text_width=12, feed_forward_width=16, state=4
)
gradcheck = partial(torch.autograd.gradcheck, fast_mode=True)  # along random directions: quick, whatever the size

SWITCHES = [{}, {"diffusion": False}, {"mask_prompt": False}]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_attention_and_its_block():
    torch.manual_seed(0)
    block = SelfAttentionBlock(width=4, heads=2, feed_forward_width=6).double()
    queries, keys = (torch.randn(2, n, w, dtype=torch.float64, requires_grad=True) for n, w in ((3, 4), (5, 3)))
    assert gradcheck(block, [queries])
    layer = MultiHeadAttention(width=4, heads=2, key_width=3).double()
    mask = torch.zeros(2, 1, 1, 5, dtype=torch.float64)
    mask[0, ..., 2:] = -torch.inf
    assert gradcheck(lambda *tensors: layer(*tensors, mask), [queries, keys])


@pytest.mark.equation(3, 4, 5, 6)
def test_the_state_space_layer_and_every_parameter_of_it():
    torch.manual_seed(0)
    layer = SelectiveStateSpace(channels=3, state=2).double()
    nn.init.normal_(layer.step.weight)  # the step depends on the token more than a new layer's does
    sequence = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(sequence: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (sequence,))

    assert gradcheck(run, [sequence, *(value.detach().requires_grad_() for value in values)])


@pytest.fixture
def _soft_argmax(monkeypatch):
    """An argmax has no derivative, and passes the softmax's straight through: here it is that softmax."""

    def soft(response: Tensor) -> Clusters:
        return Clusters(response.softmax(dim=1), torch.ones_like(response[..., 0]))

    monkeypatch.setattr(kmax_mamba, "query_argmax", soft)


@pytest.mark.usefixtures("_soft_argmax")
@pytest.mark.parametrize("reading", ["balanced", "residual", "printed"])
def test_the_kmm_block_and_every_parameter_of_it(reading):
    torch.manual_seed(0)
    sizes = {"width": 4, "level_channels": 3, "queries": 2, "heads": 2, "feed_forward_width": 4, "state": 2}
    block = KMaxMambaBlock(**sizes, reading=reading).double()
    queries, level = random(2, 2, 4, seed=0).requires_grad_(), random(2, 3, 2, 1, 2, seed=1).requires_grad_()
    names, values = zip(*block.named_parameters(), strict=True)

    def run(queries: Tensor, level: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), (queries, level))

    assert gradcheck(run, [queries, level, *(value.detach().requires_grad_() for value in values)])


@pytest.mark.usefixtures("_soft_argmax")
@pytest.mark.parametrize("state_space", [True, False])
def test_the_organ_decoder(state_space):
    torch.manual_seed(0)
    sizes = {"organs": 2, "width": 4, "heads": 2, "feed_forward_width": 4, "state": 2, "background": 1}
    decoder = KMaxMambaDecoder(level_channels=(3, 2), **sizes, state_space=state_space).double()
    levels = [random(1, 3, 1, 2, 1, seed=0).requires_grad_(), random(1, 2, 2, 2, 2, seed=1).requires_grad_()]

    def run(start: Tensor, *levels: Tensor) -> tuple[Tensor, ...]:
        answers = torch.func.functional_call(decoder, {"queries": start}, (levels,))
        return answers.queries, *answers.responses, *answers.background

    assert gradcheck(run, [decoder.queries.detach().requires_grad_(), *levels])


def test_the_vanilla_block():
    torch.manual_seed(0)
    block = MaskTransformerBlock(width=4, level_channels=3, queries=2, heads=2, feed_forward_width=4).double()
    queries, level = (torch.randn(2, *s, dtype=torch.float64, requires_grad=True) for s in ((2, 4), (3, 2, 1, 2)))
    assert gradcheck(block, [queries, level])


@pytest.mark.equation(17, 18, 19)
@pytest.mark.parametrize("switches", SWITCHES)
def test_the_dqr_block_from_both_maps_the_score_and_both_kinds_of_query(switches):
    torch.manual_seed(0)
    layer = QueryRefinementBlock(channels=2, width=4, heads=2, feed_forward_width=4, responds_as=3, **switches).double()

    def run(feature: Tensor, deeper: Tensor, score: Tensor, organs: Tensor, tumors: Tensor) -> tuple[Tensor, ...]:
        refined, enhanced, response = layer(feature, deeper, score, Queries(organs, tumors))
        return *refined, enhanced, response

    shapes = (2, 2, 2, 1, 3), (2, 2, 2, 1, 3), (2, 2, 1, 3), (2, 2, 4), (2, 3, 4)
    inputs = [random(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]
    inputs[2].requires_grad_("mask_prompt" in switches)  # the mask of Eq. 15 is a step: no gradient
    assert gradcheck(run, inputs)


@pytest.mark.equation(18)
def test_the_fusion_along_both_ways():
    torch.manual_seed(0)
    fusion = FeatureFusion(2, 3).double()
    inputs = [random(1, 2, 2, 1, 2, seed=0).requires_grad_(), random(1, 3, 3, 2, 4, seed=1).requires_grad_()]
    assert gradcheck(fusion, inputs)


@pytest.mark.parametrize("switches", SWITCHES)
def test_the_dqr_decoder_from_every_level_and_the_organ_queries(switches):
    torch.manual_seed(0)
    module = QueryRefinementDecoder(
        level_channels=(4, 2, 2, 2), finest_channels=3, width=4, tumors=1, heads=2, feed_forward_width=2, **switches
    ).double()
    sizes = [(1, 2, 3), (2, 1, 2), (2, 2, 1), (1, 2, 2)]
    scores = [random(1, *size, seed=9) for size in sizes]
    channels = (4, 2, 2, 2)
    levels = [
        random(1, c, *size, seed=seed).requires_grad_()
        for seed, (c, size) in enumerate(zip(channels, sizes, strict=True))
    ]
    organs, finest = random(1, 2, 4, seed=8).requires_grad_(), random(1, 3, 2, 3, 2, seed=7).requires_grad_()

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        refined = module(given[:4], given[4], scores, given[5])
        return refined.organs, refined.tumors, *refined.responses, refined.finest

    # In every direction: the ways from the first level to its own guidance are narrow.
    assert torch.autograd.gradcheck(run, [*levels, organs, finest])


class Given(nn.Module):
    """Stands for a part of the network whose output is given."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_inputs: object) -> object:
        return self.output


@pytest.mark.parametrize("row", ["stage 1", 3, 5, 6])
def test_the_network_from_queries_responses_and_maps_on(row):
    """Behind backbone and kMM decoder nothing is straight-through: the derivative is that of finite differences."""
    torch.manual_seed(0)
    config = replace(SMALL, organs=2, tumors=2, query_width=8, feed_forward_width=8, channels=(2, 8, 8, 8, 8, 8))
    config = replace(config, stage=1) if row == "stage 1" else replace(config, **TABLE_5[row])
    network = build(config, torch.randn(4, 12)).double().eval()
    network.text_alignment = None  # it answers in float32; test_text_alignment.py holds it
    sizes = [(1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 2)]
    levels = [torch.randn(1, 8, *size, dtype=torch.float64) for size in sizes]
    responses = [torch.randn(1, 2, *size, dtype=torch.float64) for size in sizes]
    queries, embedding = torch.randn(1, 2, 8, dtype=torch.float64), torch.randn(1, 2, 4, 4, 4, dtype=torch.float64)
    half = torch.randn(1, 8, 2, 2, 2, dtype=torch.float64)
    image = torch.rand(1, 2, 4, 4, 4, dtype=torch.float64)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        network.backbone = Given(PixelFeatures(tensors[:4], tensors[4], tensors[5]))
        network.organ_decoder = Given(OrganAnswers(tensors[6], list(tensors[7:]), []))
        output = network(image)
        parts = [output.presence, output.anomaly, *output.responses, *output.tumor_responses, output.any_tumor]
        parts = [part for part in parts if part is not None]
        if output.proposals is not None:
            return *parts, *output.proposals
        parts += [output.organ_logits, output.tumor_logits]
        return tuple(part for part in parts if part is not None)

    inputs = [tensor.requires_grad_() for tensor in (*levels, half, embedding, queries, *responses)]
    outputs = run(*inputs)
    weights = [torch.randn_like(part) for part in outputs]

    def loss(*tensors: Tensor) -> Tensor:
        return sum((part * weight).sum() for part, weight in zip(run(*tensors), weights, strict=True))

    gradients = torch.autograd.grad(loss(*inputs), inputs, allow_unused=True)
    for place, (tensor, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        way, step = torch.randn_like(tensor), 1e-6
        with torch.no_grad():
            ends = [loss(*inputs[:place], tensor + s * way, *inputs[place + 1 :]) for s in (step, -step)]
        expected = ((ends[0] - ends[1]) / (2 * step)).item()
        found = 0.0 if gradient is None else (gradient * way).sum().item()
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6), place


@pytest.mark.parametrize(("shifted", "size"), [(False, (2, 3, 1)), (True, (8, 1, 1)), (True, (1, 9, 2))])
def test_the_swin_block_and_every_parameter_of_it(shifted, size):
    torch.manual_seed(0)
    block = SwinTransformerBlock(4, 2, shifted=shifted).double()
    feature = torch.randn(1, *size, 4, dtype=torch.float64, requires_grad=True)
    leaves = {name: value.detach().requires_grad_() for name, value in block.named_parameters()}
    names = [name for name in leaves if "table" not in name]
    table = leaves["attn.relative_position_bias_table"]

    def run(*given: torch.Tensor) -> torch.Tensor:
        parameters = dict(zip(names, given[1:], strict=True)) | {"attn.relative_position_bias_table": table}
        return torch.func.functional_call(block, parameters, (given[0],))

    assert gradcheck(run, [feature, *(leaves[name] for name in names)])
    # Of the table only the rows that occur count, so it is tried along one direction.
    way, step = torch.randn_like(table), 1e-6
    weight = torch.randn_like(feature)
    (gradient,) = torch.autograd.grad((run(feature, *map(leaves.get, names)) * weight).sum(), table)
    ends = []
    for sign in (1, -1):
        moved = leaves | {"attn.relative_position_bias_table": table + sign * step * way}
        ends.append((torch.func.functional_call(block, moved, (feature,)) * weight).sum().item())
    assert (gradient * way).sum().item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_embedding_and_merging():
    torch.manual_seed(0)
    image = torch.randn(1, 2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(PatchEmbedding(2, 3).double(), [image])
    feature = torch.randn(1, 4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(PatchMerging(2).double(), [feature])


def test_residual_and_up_blocks():
    torch.manual_seed(0)
    for inputs, outputs in ((2, 2), (1, 2)):
        feature = torch.randn(1, inputs, 3, 2, 2, dtype=torch.float64, requires_grad=True)
        assert gradcheck(ResidualBlock(inputs, outputs).double(), [feature])
    shapes = (1, 4, 1, 1, 1), (1, 2, 2, 2, 2)
    maps = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert gradcheck(UpBlock(4, 2).double(), maps)
