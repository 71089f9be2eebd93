"""Cards name the method and the row of Table 5, and weights of one load as no other."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from dsmseg import baselines, checkpoint
from dsmseg.baselines import METHODS
from dsmseg.checkpoint import Card, segmenter
from dsmseg.errors import WeightsError
from dsmseg.model import ABLATIONS, PRESETS, TABLE_5, ablated, build
from dsmseg.taxonomy import CLASSES

TINY = replace(PRESETS["starter"], channels=(4, 4, 4, 8, 8, 8), query_width=32, feed_forward_width=32, state=2, heads=4)
BASELINES = [method for method in METHODS if method != "dsm"]


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch) -> None:
    monkeypatch.setattr(segmenter, "PRESETS", {**PRESETS, "starter": TINY})
    torch.manual_seed(0)


def a_card(**changes) -> Card:
    fields = {
        "name": "tiny", "version": "1", "preset": "starter", "stage": 2, "organs": ("Liver", "Spleen"),
        "tumors": ("Liver Tumor",), "text_encoder": "minilm", "spacing_mm": (3, 3, 3),
        "hu_windows": ((-160, 240), (-1000, 600)), "window": (32, 32, 32), "training_data": (),
        "licence": "Apache-2.0", "figures": {},
    }  # fmt: skip
    return Card.model_validate(fields | changes)


def text() -> torch.Tensor:
    return torch.randn(45, TINY.text_width)


@pytest.mark.parametrize("method", BASELINES)
def test_a_baseline_comes_back_with_its_answers_and_knows_what_it_was_trained_for(tmp_path, method) -> None:
    trained = torch.tensor([one.name in ("Liver", "Spleen", "Liver Tumor") for one in CLASSES])
    network = baselines.build(method, TINY, text(), trained).eval()
    if method == "sml":
        network.add(network.moments(torch.rand(1, 2, 32, 64, 32)))
    state = network.state_dict()
    network.load_state_dict(
        {name: one.half().float() if one.is_floating_point() else one for name, one in state.items()}
    )
    checkpoint.save(tmp_path / "tiny.safetensors", network.state_dict(), a_card(method=method))
    restored = checkpoint.network(checkpoint.load(tmp_path / "tiny.safetensors"))
    assert torch.equal(restored.trained, trained)
    image = torch.rand(1, 2, 32, 64, 32)
    with torch.inference_mode():
        expected, found = network(image), restored(image)
    for name in ("organ_logits", "tumor_logits", "anomaly"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_weights_of_a_row_of_table_5_load_as_that_row_and_no_other(tmp_path, ablation, stage) -> None:
    path = tmp_path / "tiny.safetensors"
    network = build(replace(ablated(TINY, ablation), stage=stage), text())
    tumors = ("Liver Tumor",) if stage == 2 else ()
    for other in ABLATIONS:
        checkpoint.save(path, network.state_dict(), a_card(stage=stage, ablation=other, tumors=tumors))
        rows = [TABLE_5[ABLATIONS[one]] for one in (ablation, other)]
        if stage == 1 and rows[0].get("state_space", True) == rows[1].get("state_space", True):
            checkpoint.verify(path)  # rows that differ in Stage 2 alone share Stage 1
        elif ablation == other:
            checkpoint.verify(path)
        else:
            row = "" if other == "full" else ", " + other.replace("_", " ")
            with pytest.raises(WeightsError, match=f"for preset starter, stage {stage}{row} "):
                checkpoint.verify(path)


@pytest.mark.parametrize("prompt", ["anomalies", "organs"])
def test_weights_come_back_with_the_prompt_that_they_were_trained_with(tmp_path, prompt) -> None:
    network = build(replace(TINY, prompt=prompt), text()).eval()
    with torch.no_grad():
        network.load_state_dict(
            {name: one.half().float() if one.is_floating_point() else one for name, one in network.state_dict().items()}
        )
    checkpoint.save(tmp_path / "tiny.safetensors", network.state_dict(), a_card(prompt=prompt))
    restored = checkpoint.network(checkpoint.load(tmp_path / "tiny.safetensors"))
    assert {block.points_to for block in restored.tumor_decoder.blocks} == {prompt}
    image = torch.rand(1, 2, 32, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(restored(image).tumor_logits, network(image).tumor_logits)


def test_weights_of_one_method_are_refused_as_another_s(tmp_path) -> None:
    path = tmp_path / "tiny.safetensors"
    states = {"dsm": build(TINY, text()).state_dict()}
    states |= {method: baselines.build(method, TINY, text()).state_dict() for method in BASELINES}
    for method, state in states.items():
        for other in states:
            checkpoint.save(path, state, a_card(method=other))
            if other == method:
                checkpoint.verify(path)
                continue
            with pytest.raises(WeightsError, match=r"(missing|unknown|of another shape) for preset starter"):
                checkpoint.verify(path)


def test_a_card_from_before_is_dsm_in_full() -> None:
    fields = a_card().model_dump(mode="json")
    del fields["method"], fields["ablation"]
    card = Card.model_validate(fields)
    assert (card.method, card.ablation) == ("dsm", "full")


@pytest.mark.parametrize(
    "change",
    [{"method": "nnunet"}, {"ablation": "row 7"}, {"method": "sml", "ablation": "without_kmm"},
     {"method": "universal", "stage": 1, "tumors": ()}],
)  # fmt: skip
def test_a_card_names_methods_and_rows_that_there_are(change) -> None:
    with pytest.raises(ValidationError):
        a_card(**change)
