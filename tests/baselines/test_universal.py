"""The Universal model: text writes the layers that segment its class."""

import torch
from torch.nn import functional

from dsmseg.baselines.universal import PARTS, dynamic_layers


def test_the_controller_writes_153_numbers_for_each_class(make) -> None:
    network = make("universal")
    assert sum(PARTS) == 153
    assert network.write(torch.rand(2, 16, 2, 1, 1)).shape == (2, 45, 153)


def test_the_numbers_are_three_convolutions_with_relu_between() -> None:
    torch.manual_seed(0)
    feature, numbers = torch.randn(8, 4, 3, 2), torch.randn(153)
    weights = [
        numbers[:64].view(8, 8, 1, 1, 1),
        numbers[64:128].view(8, 8, 1, 1, 1),
        numbers[128:136].view(1, 8, 1, 1, 1),
    ]
    biases = [numbers[136:144], numbers[144:152], numbers[152:]]
    expected = feature[None]
    for place, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        expected = functional.conv3d(functional.relu(expected) if place else expected, weight, bias)
    torch.testing.assert_close(dynamic_layers(feature.flatten(1), numbers), expected[0, 0].flatten())


def test_the_answer_for_a_class_changes_with_its_text_and_no_other_does(make, image) -> None:
    network = make("universal").eval()
    with torch.inference_mode():
        before = network(image(network))
        network.text_embeddings[27] = torch.randn(12)
        after = network(image(network))
    assert torch.equal(before.organ_logits, after.organ_logits)
    changed = (before.tumor_logits != after.tumor_logits).flatten(2).any(dim=2)[0]
    assert changed.nonzero().flatten().tolist() == [2]


def test_the_length_of_a_text_vector_means_nothing(make, image) -> None:
    network = make("universal").eval()
    with torch.inference_mode():
        before = network(image(network)).organ_logits
        network.text_embeddings *= 3
        torch.testing.assert_close(network(image(network)).organ_logits, before)


def test_computing_activations_again_changes_no_answer(make, image) -> None:
    network = make("universal").eval()
    with torch.no_grad():
        expected = network(image(network)).organ_logits
    torch.testing.assert_close(network(image(network)).organ_logits, expected)
