"""The assembly: what each stage gives, and how a mask comes from a query."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from dsmseg.model import LITERAL, PRESETS, TABLE_5, DSMConfig, build
from dsmseg.model.anomaly_prompt import deviation_scores

SMALL = replace(
    PRESETS["starter"], channels=(8, 8, 16, 16, 16, 16), query_width=16, text_width=12, feed_forward_width=16, state=4
)


def network_of(config: DSMConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(config, torch.randn(config.organs + config.tumors, config.text_width))


def test_the_anomaly_map_is_eq_14_of_the_finest_response() -> None:
    with torch.no_grad():
        output = network_of(SMALL).eval()(torch.rand(1, 2, 32, 32, 64))
    torch.testing.assert_close(output.anomaly, -output.responses[-1].sigmoid().amax(dim=1))


def test_query_k_is_of_class_k_organs_before_tumors() -> None:
    network = network_of(SMALL).eval()
    seen = {}

    def remember(name: str) -> Callable[..., None]:
        return lambda _, given, result: seen.update({name: (given[0], result)})

    for name in ("tumor_decoder", "organ_head", "tumor_head", "text_alignment", "presence_head", "tumor_presence_head"):
        getattr(network, name).register_forward_hook(remember(name))
    with torch.no_grad():
        output = network(torch.rand(1, 2, 32, 32, 64))
    organs, tumors = seen["tumor_decoder"][1][:2]
    assert torch.equal(seen["organ_head"][0], organs)
    assert torch.equal(seen["presence_head"][0], organs)
    assert torch.equal(seen["tumor_head"][0], tumors)
    assert torch.equal(seen["tumor_presence_head"][0], tumors)
    assert torch.equal(seen["text_alignment"][0], torch.cat([organs, tumors], dim=1))
    assert output.organ_logits is seen["organ_head"][1]
    assert torch.equal(output.tumor_presence, seen["tumor_presence_head"][1].squeeze(-1))


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
    added = ("tumor_decoder.", "tumor_head.", "tumor_presence_head.", "deviation_branch.", "text_alignment.")
    assert all(name.startswith(added) for name in missing)


@pytest.mark.parametrize(("preset", "widths"), [("base", (384, 192, 96, 48)), ("paper", (768, 384, 192, 96))])
def test_the_swin_presets_have_the_widths_of_the_paper(preset, widths) -> None:
    with torch.device("meta"):
        network = build(PRESETS[preset], torch.empty(45, 512))
    assert network.backbone.level_channels == widths
    assert network.organ_decoder.queries.shape == (25 + 8, 512)
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


def test_in_use_the_odds_of_a_tumor_s_voxels_are_weighed_by_its_presence() -> None:
    network = network_of(SMALL)
    image = torch.rand(1, 2, 32, 32, 64)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm3d):
            layer.eval()
    with torch.no_grad():
        learning, used = network(image), network.eval()(image)
    present = learning.tumor_presence.sigmoid()[..., None, None, None]
    odds = learning.tumor_logits.exp()
    torch.testing.assert_close(used.tumor_logits.exp(), odds * present, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(used.organ_logits, learning.organ_logits, rtol=1e-4, atol=1e-4)


def test_the_letter_reads_masks_from_the_embedding_alone_and_has_no_background_queries() -> None:
    network = network_of(replace(SMALL, readings=LITERAL)).eval()
    output = network(torch.rand(1, 2, 32, 32, 64))
    assert output.background == []
    assert network.organ_head.kernel[-1].out_features == SMALL.channels[0] + 1
    assert network.organ_decoder.queries.shape[0] == 25
    assert not network.text_alignment.center
    assert output.tumor_logits.shape == (1, 20, 32, 32, 64)


@pytest.mark.equation(14)
def test_the_dqr_decoder_gets_every_level_the_organ_queries_of_stage_1_and_every_level_s_anomaly_score():
    torch.manual_seed(0)
    network, seen = build(SMALL, torch.randn(45, 12)).eval(), {}

    def remember(name: str) -> Callable[..., None]:
        return lambda _, given, result: seen.update({name: (given, result)})

    for name in ("backbone", "organ_decoder", "tumor_decoder", "deviation_branch"):
        getattr(network, name).register_forward_hook(remember(name))
    with torch.no_grad():
        network(torch.rand(2, 2, 32, 64, 32))
    levels, (queries, responses, _) = seen["backbone"][1].levels, seen["organ_decoder"][1]
    given_levels, given_queries, scores, finest = seen["tumor_decoder"][0]
    assert torch.equal(finest, seen["backbone"][1].half)
    gained = network.deviation_branch.added_to(levels, seen["deviation_branch"][1])
    assert all(map(torch.equal, given_levels, gained))
    assert all(map(torch.equal, gained[:2], levels[:2]))
    assert all(map(torch.equal, seen["organ_decoder"][0][0], levels))
    assert torch.equal(given_queries, queries)
    assert len(scores) == 4
    for score, response in zip(scores, responses, strict=True):
        torch.testing.assert_close(score, -response.sigmoid().amax(dim=1))


def test_in_row_5_a_query_keeps_its_own_mask_organs_before_tumors():
    torch.manual_seed(0)
    network, seen = build(replace(SMALL, **TABLE_5[5])).eval(), {}
    for name in ("organ_head", "tumor_head", "query_classification"):
        getattr(network, name).register_forward_hook(lambda _, _given, result, at=name: seen.update({at: result}))
    with torch.no_grad():
        proposals = network(torch.rand(1, 2, 32, 32, 64)).proposals
    assert torch.equal(proposals.mask_logits, torch.cat([seen["organ_head"], seen["tumor_head"]], dim=1))
    assert torch.equal(proposals.class_logits, seen["query_classification"])


@torch.no_grad()
def test_stage_2_begins_with_the_organs_of_stage_1() -> None:
    first = network_of(replace(SMALL, stage=1)).eval()
    second = network_of(SMALL).eval()
    second.load_state_dict(first.state_dict(), strict=False)
    image = torch.rand(1, 2, 32, 32, 32)
    before, after = first(image).organ_logits, second(image).organ_logits
    assert (after - before).abs().max() < 0.05 * before.std()


def test_a_deviation_prompt_gives_the_dqr_decoder_the_deviation_of_the_image_from_its_organs() -> None:
    network, seen = build(replace(SMALL, prompt="deviation"), torch.randn(45, 12)).eval(), []
    network.tumor_decoder.register_forward_pre_hook(lambda _, given: seen.extend(given[2]))
    image = torch.rand(2, 2, 32, 64, 32)
    with torch.no_grad():
        output = network(image)
    expected = deviation_scores(image, output.responses)
    assert len(seen) == 4
    assert all(map(torch.equal, seen, expected))
