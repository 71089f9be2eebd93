"""The assembly: both stages learn in every parameter, and configuration alone builds the ablations."""

from dataclasses import replace

import pytest
import torch

from dsmseg.model import PRESETS, DSMConfig, build
from dsmseg.model.losses import PartialLabels, mask_loss, presence_loss, response_loss

SMALL = replace(
    PRESETS["starter"], channels=(8, 8, 16, 16, 16, 16), query_width=16, text_width=12, feed_forward_width=16, state=4
)


def network_of(config: DSMConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(config, torch.randn(config.organs + config.tumors, config.text_width))


def total_loss(output, config: DSMConfig) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (2, config.organs, *output.organ_logits.shape[2:])
    organs = PartialLabels(torch.rand(shape, generator=generator) < 0.2, torch.ones(2, config.organs, dtype=torch.bool))
    loss = mask_loss(output.organ_logits, organs) + response_loss(output.responses, organs)
    loss = loss + presence_loss(output.presence, organs)
    if output.tumor_logits is not None:
        shape = (2, config.tumors, *output.tumor_logits.shape[2:])
        tumors = PartialLabels(
            torch.rand(shape, generator=generator) < 0.1, torch.ones(2, config.tumors, dtype=torch.bool)
        )
        certainty = output.log_probability.exp().diagonal(dim1=1, dim2=2)[:, config.organs :]
        loss = loss + mask_loss(output.tumor_logits, tumors, certainty)
    return loss


@pytest.mark.parametrize("stage", [1, 2])
def test_every_parameter_of_both_stages_learns(stage) -> None:
    config = replace(SMALL, stage=stage)
    network = network_of(config)
    total_loss(network(torch.rand(2, 2, 64, 64, 64)), config).backward()
    silent = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


@pytest.mark.parametrize("switch", ["state_space", "mask_prompt", "diffusion"])
def test_the_rows_of_table_5_build_from_configuration_alone(switch) -> None:
    config = replace(SMALL, **{switch: False})
    output = network_of(config)(torch.rand(2, 2, 64, 64, 64))
    assert total_loss(output, config).isfinite()
    whole, part = (sum(value.numel() for value in network_of(one).parameters()) for one in (SMALL, config))
    assert whole != part


def test_stage_1_has_no_tumors_and_stage_2_has_both() -> None:
    image = torch.rand(1, 2, 32, 64, 32)
    first = network_of(replace(SMALL, stage=1)).eval()(image)
    second = network_of(SMALL).eval()(image)
    assert first.tumor_logits is None
    assert first.log_probability is None
    assert second.organ_logits.shape == (1, 25, 32, 64, 32)
    assert second.tumor_logits.shape == (1, 20, 32, 64, 32)
    assert second.anomaly.shape == (1, 8, 16, 8)
    torch.testing.assert_close(second.log_probability.exp().sum(-1), torch.ones(1, 45))


def test_stage_2_needs_the_class_prompts() -> None:
    with pytest.raises(ValueError, match="text embeddings"):
        build(SMALL)


def test_stage_1_weights_fit_into_stage_2() -> None:
    first = network_of(replace(SMALL, stage=1)).state_dict()
    missing, unexpected = network_of(SMALL).load_state_dict(first, strict=False)
    assert unexpected == []
    assert all(name.startswith(("tumor_decoder.", "tumor_head.", "text_alignment.")) for name in missing)


@pytest.mark.parametrize(("preset", "widths"), [("base", (384, 192, 96, 48)), ("paper", (768, 384, 192, 96))])
def test_the_swin_presets_have_the_widths_of_the_paper(preset, widths) -> None:
    with torch.device("meta"):
        network = build(PRESETS[preset], torch.empty(45, 512))
    assert network.backbone.level_channels == widths
    assert network.organ_decoder.queries.shape == (25, 512)
    assert network.tumor_decoder.tumor_queries.shape == (20, 512)


def test_both_stages_run_over_swin_unetr() -> None:
    config = replace(PRESETS["base"], feature_size=12, query_width=64, text_width=12, feed_forward_width=16)
    with torch.no_grad():
        output = network_of(config)(torch.rand(1, 1, 64, 64, 64))
    assert output.organ_logits.shape == (1, 25, 64, 64, 64)
    assert output.tumor_logits.shape == (1, 20, 64, 64, 64)
    assert [response.shape[-1] for response in output.responses] == [2, 4, 8, 16]


def test_a_seed_decides_the_network() -> None:
    image = torch.rand(1, 2, 32, 32, 64)
    first, second = (network_of(SMALL).eval()(image).organ_logits for _ in range(2))
    assert torch.equal(first, second)
