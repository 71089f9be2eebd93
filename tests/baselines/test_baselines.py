"""What holds for every baseline: shapes, gradients, partial labels, and what was never labelled."""

import pytest
import torch

from dsmseg import baselines
from dsmseg.baselines import METHODS
from dsmseg.model import PRESETS
from dsmseg.model.losses import PartialLabels

ALL = [method for method in METHODS if method != "dsm"]
LEARNING = [method for method in ALL if method != "sml"]  # which is measured, not taught
READINGS = {"cross_entropy_weight": 20.0, "over_batch": False, "least_share": 0.0}
WEIGHTS = {"organ_readings": READINGS, "tumor_readings": READINGS, "tumor_weight": 2.0}


def total(network, image, labels) -> torch.Tensor:
    return torch.stack(list(network.losses(network(image), labels, **WEIGHTS).values())).sum()


@pytest.mark.parametrize("backbone", ["conv_unet", "swin_unetr"])
@pytest.mark.parametrize("method", ALL)
def test_an_answer_has_the_fields_that_inference_reads(make, image, method, backbone) -> None:
    network = make(method, backbone).eval()
    with torch.inference_mode():
        output = network(image(network))
    assert output.organ_logits.shape == (1, 25, 64, 32, 32)
    assert output.tumor_logits.shape == (1, 20, 64, 32, 32)
    assert output.anomaly.shape == (1, 64, 32, 32)
    assert output.log_probability is None
    assert all(bool(one.isfinite().all()) for one in (output.organ_logits, output.tumor_logits, output.anomaly))
    assert -1 <= float(output.anomaly.min()) <= float(output.anomaly.max()) <= 0


@pytest.mark.parametrize("method", LEARNING)
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(make, image, labels, method) -> None:
    network = make(method)
    known = labels(size=(64, 64, 64))
    everything = PartialLabels(known.masks, torch.ones_like(known.annotated))
    total(network, image(network, size=(64, 64, 64)), everything).backward()
    silent = [
        name
        for name, one in network.named_parameters()
        if one.grad is None or not one.grad.any() or not one.grad.isfinite().all()
    ]
    assert silent == []


@pytest.mark.parametrize("method", LEARNING)
def test_the_loss_falls_on_a_toy(make, image, labels, method) -> None:
    network, known = make(method), labels()
    picture = image(network) * 0.1 + known.masks[:, :10].any(1, keepdim=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    values = []
    for _ in range(5):
        optimizer.zero_grad()
        value = total(network, picture, known)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize("method", LEARNING)
def test_what_is_not_annotated_is_unknown_and_not_background(make, image, labels, method) -> None:
    network, known = make(method).eval(), labels()
    picture = image(network)
    other = known.masks.clone()
    other[:, ~known.annotated[0]] = torch.rand(other[:, ~known.annotated[0]].shape) < 0.5
    with torch.no_grad():
        output = network(picture)
    first = network.losses(output, known, **WEIGHTS)
    second = network.losses(output, PartialLabels(other, known.annotated), **WEIGHTS)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", LEARNING)
def test_classes_that_are_not_annotated_get_no_gradient(make, image, labels, method) -> None:
    network, known = make(method), labels()
    output = network(image(network))
    for part in (output.organ_logits, output.tumor_logits):
        part.retain_grad()
    torch.stack(list(network.losses(output, known, **WEIGHTS).values())).sum().backward()
    gradient = torch.cat([output.organ_logits.grad, output.tumor_logits.grad], dim=1)[0].flatten(1).any(dim=1)
    assert torch.equal(gradient, known.annotated[0])


def test_any_tumor_answers_for_unseen_kinds_of_swin_unetr(make, image) -> None:
    network = make("swin_unetr")
    picture = image(network)
    network.eval()
    with torch.inference_mode():
        own = network.logits(picture)[:, 25:]
        tumors = network(picture).tumor_logits
    seen = TRAINED_TUMORS.nonzero().flatten().tolist()
    expected = own[:, seen].amax(dim=1)
    for index in range(20):
        assert torch.equal(tumors[:, index], own[:, index] if index in seen else expected)


@pytest.mark.parametrize("method", ["max_query", "sml"])
def test_the_anomaly_answers_for_unseen_kinds_of_max_query_and_sml(make, image, method) -> None:
    network = make(method).eval()
    if method == "sml":
        network.add(network.moments(image(network)))
    with torch.inference_mode():
        output = network(image(network))
    unseen = output.tumor_logits[:, ~TRAINED_TUMORS].sigmoid()
    torch.testing.assert_close(unseen, (1 + output.anomaly)[:, None].expand_as(unseen), atol=2e-4, rtol=0)


def test_unseen_kinds_are_asked_by_their_own_text_of_the_universal_model(make, image) -> None:
    first, second = make("universal").eval(), make("universal", trained=None).eval()
    with torch.inference_mode():
        assert torch.equal(first(image(first)).tumor_logits, second(image(second)).tumor_logits)


@pytest.mark.parametrize("method", ["swin_unetr", "universal"])
def test_without_an_anomaly_of_its_own_a_method_calls_anomalous_what_no_trained_organ_explains(
    make, image, method
) -> None:
    network = make(method).eval()
    with torch.inference_mode():
        output = network(image(network))
    torch.testing.assert_close(output.anomaly, -output.organ_logits[:, :20].sigmoid().amax(dim=1))


def test_in_training_nothing_is_answered_for_what_was_never_labelled(make, image) -> None:
    network = make("swin_unetr").train()
    tumors = network(image(network)).tumor_logits
    assert not torch.equal(tumors[:, 1], tumors[:, 3])


def test_which_classes_were_trained_is_no_part_of_the_weights(make) -> None:
    for method in ALL:
        assert "trained" not in make(method).state_dict()


def test_what_is_no_baseline_or_lacks_its_text_is_refused() -> None:
    with pytest.raises(ValueError, match="DSM is no baseline"):
        baselines.build("dsm", PRESETS["starter"])
    with pytest.raises(ValueError, match="needs the class prompts"):
        baselines.build("universal", PRESETS["starter"])


TRAINED_TUMORS = torch.zeros(20, dtype=torch.bool)
TRAINED_TUMORS[[5, 7]] = True  # as conftest.TRAINED has them
