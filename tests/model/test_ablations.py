"""The whole network, in each row of Table 5 and in both stages: all of it learns, and nothing leaks."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.model import DSM, PRESETS, TABLE_5, DSMConfig, DSMOutput, build
from dsmseg.model.hungarian_matching import hungarian_loss
from dsmseg.model.kmax_mamba import MaskTransformerBlock
from dsmseg.model.losses import PartialLabels, any_tumor_loss, background_loss, mask_loss, presence_loss, response_loss
from dsmseg.model.query_classification import QueryClassification, class_masks
from dsmseg.model.query_refinement import ProjectedFeature, QueryRefinementBlock

SMALL = replace(
    PRESETS["starter"], channels=(8, 8, 16, 16, 16, 16), query_width=16, text_width=12, feed_forward_width=16, state=4
)
ROWS = {f"row {row}": replace(SMALL, **switches) for row, switches in TABLE_5.items()}
STAGES = ROWS | {"stage 1": replace(SMALL, stage=1), "stage 1 of row 2": replace(ROWS["row 2"], stage=1)}


def network_of(config: DSMConfig, seed: int = 0) -> DSM:
    torch.manual_seed(seed)
    return build(config, torch.randn(config.organs + config.tumors, config.text_width))


def image(batch: int = 1, size: tuple[int, int, int] = (64, 64, 64)) -> Tensor:
    return torch.rand((batch, 2, *size), generator=torch.Generator().manual_seed(1))


def labels_of(output: DSMOutput, classes: int) -> PartialLabels:
    shape = (len(output.presence), classes, *output.organ_logits.shape[2:])
    masks = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.2
    return PartialLabels(masks, torch.ones(shape[:2], dtype=torch.bool))


def training_loss(output: DSMOutput, config: DSMConfig) -> Tensor:
    """The loss of a training step: Eq. 13, with diag(p) Y in Stage 2, or in rows 1 and 5 the matched one."""
    labels = labels_of(output, config.organs + config.tumors)
    organs = PartialLabels(labels.masks[:, : config.organs], labels.annotated[:, : config.organs])
    loss = response_loss(output.responses, organs) + presence_loss(output.presence, organs)
    if output.background:
        loss = loss + background_loss(output.background, organs)
    if output.tumor_presence is not None:
        tumors = PartialLabels(labels.masks[:, config.organs :], labels.annotated[:, config.organs :])
        loss = loss + presence_loss(output.tumor_presence, tumors) + response_loss(output.tumor_responses, tumors)
    if output.any_tumor is not None:
        hosts = {config.organs + tumor: [tumor] for tumor in range(config.tumors)}
        loss = loss + any_tumor_loss(output.any_tumor, labels, hosts)
    if output.proposals is not None:
        return loss + hungarian_loss(output.proposals, labels)
    if output.tumor_logits is None or output.log_probability is None:
        return loss + mask_loss(output.organ_logits, organs)
    logits = torch.cat([output.organ_logits, output.tumor_logits], dim=1)
    return loss + mask_loss(logits, labels, output.log_probability.exp().diagonal(dim1=1, dim2=2))


def silent(network: nn.Module) -> list[str]:
    """Names of parameters whose gradient is missing, zero or not finite."""
    gradients = {name: value.grad for name, value in network.named_parameters()}
    return [name for name, one in gradients.items() if one is None or not one.any() or not one.isfinite().all()]


@pytest.mark.parametrize("name", STAGES)
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(name):
    network = network_of(STAGES[name])
    training_loss(network(image()), STAGES[name]).backward()
    assert silent(network) == []


def test_every_parameter_of_a_real_preset_learns_in_one_step():
    network = network_of(PRESETS["starter"])
    training_loss(network(image()), PRESETS["starter"]).backward()
    assert silent(network) == []


def beside_responses(decoder: nn.Module) -> list[str]:
    """What is silent in the DQR decoder but the tumors' responses, which only their own loss teaches."""
    return [name for name in silent(decoder) if ".response." not in name]


def test_the_organ_masks_alone_teach_every_parameter_of_the_kmm_decoder():
    config = STAGES["stage 1"]
    network = network_of(config)
    output = network(image())
    mask_loss(output.organ_logits, labels_of(output, config.organs)).backward()
    assert silent(network.organ_decoder) == []
    assert silent(network.backbone) == []


@pytest.mark.parametrize("name", ["row 3", "row 4", "row 6"])
def test_the_tumor_masks_alone_teach_every_parameter_of_the_dqr_decoder_and_the_backbone(name):
    network = network_of(ROWS[name])
    output = network(image())
    mask_loss(output.tumor_logits, labels_of(output, 20)).backward()
    assert beside_responses(network.tumor_decoder) == []
    assert silent(network.backbone) == []


def test_the_certainty_teaches_the_queries_what_they_are_called():
    network = network_of(SMALL)
    network(image()).log_probability.diagonal(dim1=1, dim2=2).sum().backward()
    assert silent(network.text_alignment) == []
    # The last fusion leads to the masks, and to no query.
    assert [name for name in beside_responses(network.tumor_decoder) if not name.startswith("fuse.3.")] == []


def test_both_decoders_teach_every_level_of_the_backbone():
    network, seen = network_of(SMALL).eval(), {}
    network.backbone.register_forward_hook(lambda _module, _given, result: seen.update(levels=result.levels))
    output = network(image(size=(32, 64, 64)))
    by_organs = torch.autograd.grad(output.responses[-1].square().sum(), seen["levels"], retain_graph=True)
    assert all(bool(gradient.any()) for gradient in by_organs)
    # With the organ queries held still, the tumor queries are the only way left.
    network.organ_decoder.register_forward_hook(
        lambda _module, _given, result: result._replace(queries=result.queries.detach())
    )
    by_tumors = torch.autograd.grad(network(image(size=(32, 64, 64))).log_probability.square().sum(), seen["levels"])
    assert all(bool(gradient.any()) for gradient in by_tumors)


def kinds(network: nn.Module) -> set[type]:
    return {type(module) for module in network.modules()}


@pytest.mark.parametrize("row", TABLE_5)
def test_each_row_of_table_5_replaces_what_it_says_and_nothing_else(row):
    network = network_of(ROWS[f"row {row}"])
    replaced = kinds(network)
    assert (MaskTransformerBlock in replaced) == (row in (1, 2))
    masked = {block.mask_prompt for block in network.modules() if isinstance(block, QueryRefinementBlock)}
    assert masked == {row not in (1, 3)}
    assert (ProjectedFeature in replaced) == (row in (1, 4))
    assert (QueryClassification in replaced) == (row in (1, 5))
    names = {kind.__name__ for kind in replaced}
    assert ("KMaxMambaBlock" in names) == ("SelectiveStateSpace" in names) == (row not in (1, 2))
    assert ("SemanticDiffusion" in names) == (row not in (1, 4))
    assert ("TextAlignment" in names) == (row not in (1, 5))


def test_row_6_is_the_full_model_and_the_default_of_every_preset():
    assert replace(SMALL, **TABLE_5[6]) == SMALL
    switches = ("state_space", "mask_prompt", "diffusion", "text_alignment")
    for preset in PRESETS.values():
        assert [getattr(preset, switch) for switch in switches] == [True] * 4
    assert dict(TABLE_5[1]) == dict.fromkeys(switches, False)


@pytest.mark.parametrize("name", ROWS)
def test_each_row_gives_the_masks_of_all_classes(name):
    with torch.no_grad():
        output = network_of(ROWS[name]).eval()(image(size=(32, 64, 32)))
    assert output.organ_logits.shape == (1, 25, 32, 64, 32)
    assert output.tumor_logits.shape == (1, 20, 32, 64, 32)
    assert all(bool(logits.isfinite().all()) for logits in (output.organ_logits, output.tumor_logits))
    assert (output.proposals is None) == (output.log_probability is not None) == (name not in ("row 1", "row 5"))


def test_row_5_reads_the_masks_of_organs_and_tumors_from_its_proposals_in_order():
    with torch.no_grad():
        output = network_of(ROWS["row 5"]).eval()(image(size=(32, 64, 32)))
    assert output.proposals.mask_logits.shape == (1, 45, 32, 64, 32)
    assert output.proposals.class_logits.shape == (1, 45, 46)
    organs, tumors = class_masks(output.proposals).split([25, 20], dim=1)
    present = functional.logsigmoid(output.tumor_presence)[..., None, None, None]
    torch.testing.assert_close(masks_of(output), torch.cat([organs, tumors + present], dim=1))


def test_without_text_alignment_no_text_is_asked_for():
    assert build(ROWS["row 5"]).text_alignment is None


def masks_of(output: DSMOutput) -> Tensor:
    return torch.cat([output.organ_logits, output.tumor_logits], dim=1)


@pytest.mark.parametrize("name", ["row 1", "row 3", "row 6"])
def test_batch_items_do_not_influence_each_other(name):
    network, pair = network_of(ROWS[name]).eval(), image(batch=2, size=(32, 64, 64)).requires_grad_()
    both = network(pair)
    with torch.no_grad():
        alone = network(pair[1:])
    torch.testing.assert_close(masks_of(both)[1:], masks_of(alone), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(both.presence[1:], alone.presence, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(both.anomaly[1:], alone.anomaly, rtol=1e-3, atol=1e-3)
    mine = masks_of(both) if both.proposals is None else both.proposals.mask_logits
    (gradient,) = torch.autograd.grad(mine[0].square().mean() + both.presence[0].sum(), pair)
    assert bool(gradient[0].any())
    assert not bool(gradient[1].any())


def test_the_gradient_of_a_batch_is_the_mean_of_its_items():
    network, pair = network_of(SMALL).eval(), image(batch=2, size=(32, 64, 64))
    parameters = dict(network.named_parameters())

    def gradients(images: Tensor) -> tuple[Tensor, ...]:
        output = network(images)
        value = masks_of(output).square().mean() + output.presence.mean()
        return torch.autograd.grad(value, list(parameters.values()), allow_unused=True)

    singles = zip(gradients(pair[:1]), gradients(pair[1:]), strict=True)
    for name, both, (first, second) in zip(parameters, gradients(pair), singles, strict=True):
        if both is not None:
            expected = (first + second) / 2
            torch.testing.assert_close(both, expected, rtol=1e-2, atol=1e-3 * expected.abs().max().item(), msg=name)


@pytest.mark.parametrize("name", ["row 5", "row 6"])
def test_a_seed_decides_the_network_its_answer_and_its_gradients(name):
    def run() -> list[Tensor]:
        network = network_of(ROWS[name], seed=5)
        output = network(image(size=(32, 64, 64)))
        training_loss(output, ROWS[name]).backward()
        return [masks_of(output), *(parameter.grad for parameter in network.parameters())]

    assert all(torch.equal(first, second) for first, second in zip(run(), run(), strict=True))


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in ("stage 1", "row 1", "row 6")])
def test_under_bf16_autocast_masks_are_within_5_percent_of_fp32_and_all_gradients_finite(name):
    network = network_of(STAGES[name])
    with torch.autocast("cpu", torch.bfloat16):
        output = network(image())
    training_loss(output, STAGES[name]).backward()
    assert silent(network) == []
    network.eval()
    with torch.no_grad():
        expected = network(image())
        with torch.autocast("cpu", torch.bfloat16):
            half = network(image())
    for mine, other in [(half.organ_logits, expected.organ_logits), (half.tumor_logits, expected.tumor_logits)]:
        if other is not None:
            assert (mine - other).norm() < 0.05 * other.norm()
            assert (mine.sigmoid() - other.sigmoid()).abs().max() < 0.05
    # At deeper levels one voxel that changes its cluster moves a query, so only the first level is as close.
    assert (half.responses[0] - expected.responses[0]).norm() < 0.03 * expected.responses[0].norm()
