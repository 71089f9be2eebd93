"""§ 4.1.1: Eq. 8-10 against loops in float64, and the decoder."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.model.kmax_mamba import (
    KMaxMambaBlock,
    KMaxMambaDecoder,
    MaskTransformerBlock,
    cluster_centers,
    k_means_cross_attention,
    query_argmax,
)

SEEDS = st.integers(0, 999)


def decoder(*, state_space: bool = True, background: int = 0) -> KMaxMambaDecoder:
    torch.manual_seed(0)
    return KMaxMambaDecoder(
        level_channels=(16, 16, 8, 8),
        organs=5,
        width=16,
        heads=4,
        feed_forward_width=16,
        state=4,
        background=background,
        state_space=state_space,
    )


def levels() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = zip((16, 16, 8, 8), (1, 2, 4, 8), strict=True)
    return [torch.randn((2, channels, size, size, size), generator=generator) for channels, size in sizes]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_centers(response: Tensor, feature: Tensor) -> Tensor:
    """Eq. 10 for one item: the sum over a query's voxels, divided by their number, hard or soft, if that is above 1."""
    centers = torch.zeros(response.shape[0], feature.shape[1], dtype=torch.float64)
    hard, soft = [0] * len(response), [0.0] * len(response)
    for voxel in range(response.shape[1]):
        answers = response[:, voxel].tolist()
        owner = answers.index(max(answers))
        centers[owner] += feature[voxel]
        hard[owner] += 1
        for query, answer in enumerate(answers):
            soft[query] += math.exp(answer) / sum(math.exp(other) for other in answers)
    sizes = [max(1.0, one, other) for one, other in zip(hard, soft, strict=True)]
    return centers / torch.tensor(sizes, dtype=torch.float64)[:, None]


@pytest.mark.equation(9)
@settings(max_examples=30)
@given(seed=SEEDS, scale=st.floats(0.01, 100))
def test_each_voxel_is_assigned_once_to_the_query_that_answers_it_most(seed, scale):
    response = scale * random(2, 4, 9, seed=seed)
    assignment = query_argmax(response).assignment
    torch.testing.assert_close(assignment.sum(dim=1), torch.ones(2, 9, dtype=torch.float64))
    for item in range(2):
        for voxel in range(9):
            answers = response[item, :, voxel].tolist()
            expected = [float(answer == max(answers)) for answer in answers]
            torch.testing.assert_close(assignment[item, :, voxel], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.equation(9)
@settings(max_examples=30)
@given(seed=SEEDS)
def test_the_gradient_of_the_assignment_is_that_of_the_softmax_over_queries(seed):
    response = random(2, 4, 9, seed=seed).requires_grad_()
    upstream = random(2, 4, 9, seed=seed + 1000)
    (straight_through,) = torch.autograd.grad((query_argmax(response).assignment * upstream).sum(), response)
    probability = torch.exp(response) / torch.exp(response).sum(dim=1, keepdim=True)
    (expected,) = torch.autograd.grad((probability * upstream).sum(), response)
    torch.testing.assert_close(straight_through, expected)


@pytest.mark.equation(10)
@settings(max_examples=30)
@given(seed=SEEDS, scale=st.sampled_from([0.1, 1.0, 10.0]), voxels=st.integers(1, 12))
def test_a_center_is_the_mean_of_its_voxels_by_hard_or_soft_number(seed, scale, voxels):
    response, feature = scale * random(2, 3, voxels, seed=seed), random(2, voxels, 4, seed=seed + 1)
    centers = cluster_centers(query_argmax(response), feature)
    for item in range(2):
        torch.testing.assert_close(centers[item], plain_centers(response[item], feature[item]))


def test_a_center_is_the_mean_of_the_voxels_that_answer_to_its_query() -> None:
    response = torch.full((1, 3, 6), -50.0)
    owners = torch.tensor([0, 0, 1, 1, 1, 0])
    response[0, owners, torch.arange(6)] = 50.0
    feature = torch.randn(1, 6, 4)
    centers = cluster_centers(query_argmax(response), feature)[0]
    torch.testing.assert_close(centers[0], feature[0, owners == 0].mean(0))
    torch.testing.assert_close(centers[1], feature[0, owners == 1].mean(0))
    torch.testing.assert_close(centers[2], torch.zeros(4))


def test_a_query_with_many_soft_and_no_hard_voxels_does_not_explode() -> None:
    response = torch.zeros(1, 2, 4096)
    response[:, 0] += 1e-3
    response.requires_grad_()
    feature = torch.ones(1, 4096, 4)
    (gradient,) = torch.autograd.grad(cluster_centers(query_argmax(response), feature)[:, 1].sum(), response)
    assert gradient.abs().sum() < 5.0  # undivided, it would be thousands


def test_a_cluster_is_divided_by_its_size_without_a_gradient_through_the_size() -> None:
    response, feature = random(1, 3, 8, seed=0).requires_grad_(), random(1, 8, 2, seed=1)
    clusters = query_argmax(response)
    assert not clusters.size.requires_grad
    (gradient,) = torch.autograd.grad(cluster_centers(clusters, feature).sum(), response)
    share = feature.sum(-1)[:, None] / clusters.size[:, :, None]
    (expected,) = torch.autograd.grad((response.softmax(dim=1) * share).sum(), response)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.equation(8)
@settings(max_examples=30)
@given(seed=SEEDS)
def test_k_means_cross_attention_adds_the_mean_value_of_a_querys_voxels(seed):
    queries, response, feature = (
        random(1, 3, 5, seed=seed),
        random(1, 3, 9, seed=seed + 1),
        random(1, 9, 4, seed=seed),
    )
    weight = random(5, 4, seed=seed + 2)
    updated = k_means_cross_attention(queries, response, feature, lambda centers: centers @ weight.T)
    values = feature[0] @ weight.T  # V_F of every voxel
    torch.testing.assert_close(updated[0], queries[0] + plain_centers(response[0], values))


def plain_scan(layer: nn.Module, sequence: Tensor) -> Tensor:
    """Eq. 3-6 token by token for one item, (length, channel), with Mamba's selection and skip."""
    state = torch.zeros(layer.log_decay.shape, dtype=torch.float64)
    outputs = []
    for token in sequence:
        step = functional.softplus(token @ layer.step.weight.T + layer.step.bias)[:, None]
        decay = -torch.exp(layer.log_decay)
        transition = torch.exp(step * decay)
        state = transition * state + (transition - 1) / decay * (layer.input_map.weight @ token) * token[:, None]
        outputs.append(state @ (layer.output_map.weight @ token) + (0 if layer.skip is None else layer.skip * token))
    return torch.stack(outputs)


def plain_affinity(block: nn.Module, queries: Tensor, feature: Tensor) -> Tensor:
    """O_i F_i^T of one item: scaled dot products of normalized, projected queries and features, plus a bias."""
    normalized = functional.layer_norm(queries, queries.shape[-1:], block.query_norm.weight, block.query_norm.bias)
    projected = normalized @ block.query_projection.weight.T + block.query_projection.bias
    return projected @ feature.T / math.sqrt(feature.shape[1]) + block.bias[:, None]


def block_of(kind: type[nn.Module], **more: int) -> nn.Module:
    torch.manual_seed(0)
    block = kind(width=8, level_channels=4, queries=3, heads=2, feed_forward_width=8, **more).double()
    for parameter in (block.bias, block.query_norm.weight, block.feature_norm.weight):
        nn.init.normal_(parameter)
    return block


def plain_response(block: KMaxMambaBlock, affinity: Tensor) -> Tensor:
    """Eq. 9 of one item, as the block's reading has it."""
    scale = affinity.square().mean().sqrt() if block.reading == "balanced" else 1.0
    entering = affinity / scale
    memory = plain_scan(block.state_space, (entering / (1 + torch.exp(-entering))).T).T
    if block.reading == "printed":
        return memory
    if block.reading == "residual":
        return affinity + memory
    return affinity + block.gain[:, None] * scale * memory / memory.square().mean(1, keepdim=True).sqrt()


READINGS = pytest.mark.parametrize("reading", ["balanced", "residual", "printed"])


@READINGS
@pytest.mark.equation(9, 10)
def test_a_kmm_block_is_eq_9_and_10_with_the_state_space_layer_along_the_voxels(reading) -> None:
    block = block_of(KMaxMambaBlock, state=2, reading=reading)
    queries, level = random(2, 3, 8, seed=1), random(2, 4, 2, 3, 2, seed=2)
    updated, response = block(queries, level)
    for item in range(2):
        voxels = torch.stack([level[item, :, x, y, z] for x in range(2) for y in range(3) for z in range(2)])
        feature = functional.layer_norm(voxels, (4,), block.feature_norm.weight, block.feature_norm.bias)
        expected = plain_response(block, plain_affinity(block, queries[item], feature))
        torch.testing.assert_close(response[item], expected.reshape(3, 2, 3, 2), rtol=1e-5, atol=1e-6)
        centers = plain_centers(expected, feature)
        after = queries[item] + centers @ block.center_projection.weight.T + block.center_projection.bias
        torch.testing.assert_close(updated[item], block.self_attention(after[None])[0])


@pytest.mark.equation(9)
@settings(max_examples=10)
@given(scale=st.sampled_from([1e-2, 1.0, 1e3]))
def test_a_balanced_memory_counts_as_much_however_large_affinities_grow(scale) -> None:
    block = block_of(KMaxMambaBlock, state=2)
    affinity = scale * random(1, 3, 40, seed=1)
    block.affinity = lambda _queries, _feature: affinity
    added = block.response(random(1, 3, 8, seed=2), random(1, 40, 4, seed=3)) - affinity
    measured = added.square().mean().sqrt() / affinity.square().mean().sqrt()
    assert measured.item() == pytest.approx(0.5, rel=1e-4)  # the gain at the beginning


@READINGS
@pytest.mark.equation(9, 10)
def test_a_kmm_block_learns_through_the_gathered_features_and_through_the_softmax_of_its_response(reading) -> None:
    block = block_of(KMaxMambaBlock, state=2, reading=reading)
    queries, level = random(1, 3, 8, seed=1).requires_grad_(), random(1, 4, 2, 3, 2, seed=2).requires_grad_()
    upstream = random(1, 3, 8, seed=3)
    given = torch.autograd.grad((block(queries, level)[0] * upstream).sum(), (queries, level))
    voxels = level[0].flatten(1).T
    feature = functional.layer_norm(voxels, (4,), block.feature_norm.weight, block.feature_norm.bias)
    response = plain_response(block, plain_affinity(block, queries[0], feature))
    clusters = query_argmax(response[None])
    hard, soft = clusters.assignment[0].detach().round(), response.softmax(dim=0)
    # The features as the one-hot assignment gathers them, the response as a soft assignment would.
    centers = (hard @ feature + (soft - soft.detach()) @ feature.detach()) / clusters.size[0][:, None]
    after = queries[0] + centers @ block.center_projection.weight.T + block.center_projection.bias
    expected = torch.autograd.grad((block.self_attention(after[None]) * upstream).sum(), (queries, level))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_the_vanilla_block_attends_by_a_softmax_over_voxels_without_the_state_space_layer() -> None:
    block = block_of(MaskTransformerBlock)
    queries, level = random(2, 3, 8, seed=1), random(2, 4, 2, 3, 2, seed=2)
    updated, response = block(queries, level)
    feature = functional.layer_norm(
        level.flatten(2).transpose(1, 2), (4,), block.feature_norm.weight, block.feature_norm.bias
    )
    for item in range(2):
        affinity = plain_affinity(block, queries[item], feature[item])
        torch.testing.assert_close(response[item], affinity.reshape(3, 2, 3, 2))
    read = block.cross_attention(block.query_norm(queries), feature)
    torch.testing.assert_close(updated, block.self_attention(queries + read))


def test_the_decoder_answers_at_every_level() -> None:
    answers = decoder()(levels())
    assert answers.queries.shape == (2, 5, 16)
    assert [one.shape for one in answers.responses] == [(2, 5, size, size, size) for size in (1, 2, 4, 8)]
    assert answers.background == []


def test_background_queries_answer_apart_and_take_voxels_from_the_organs_clusters() -> None:
    network = decoder(background=3)
    answers = network(levels())
    assert answers.queries.shape == (2, 5, 16)
    assert [one.shape[1] for one in answers.responses] == [5] * 4
    assert [one.shape[1] for one in answers.background] == [3] * 4
    together = torch.cat([answers.responses[-1], answers.background[-1]], dim=1).flatten(2)
    owner = query_argmax(together).assignment.argmax(1)
    assert bool((owner >= 5).any())


def test_each_block_goes_on_with_the_queries_of_the_one_before() -> None:
    network, features = decoder(), levels()
    queries, responses, _ = network(features)
    expected = network.queries.expand(2, -1, -1)
    for block, level, response in zip(network.blocks, features, responses, strict=True):
        expected, answer = block(expected, level)
        torch.testing.assert_close(response, answer)
    torch.testing.assert_close(queries, expected)


def test_row_2_of_table_5_has_no_state_space_layer() -> None:
    names = [type(module).__name__ for module in decoder(state_space=False).modules()]
    assert "SelectiveStateSpace" not in names
    assert decoder(state_space=False)(levels()).queries.isfinite().all()


def test_batch_items_do_not_influence_each_other() -> None:
    network, features = decoder(), levels()
    queries, responses, _ = network(features)
    alone, alone_responses, _ = network([feature[1:] for feature in features])
    torch.testing.assert_close(queries[1:], alone)
    torch.testing.assert_close(responses[-1][1:], alone_responses[-1])
