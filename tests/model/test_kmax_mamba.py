"""§ 4.1.1: assignment and centers of Eq. 9 and 10, and the decoder."""

import torch

from dsmseg.model.kmax_mamba import KMaxMambaDecoder, cluster_centers


def decoder(*, state_space: bool = True) -> KMaxMambaDecoder:
    torch.manual_seed(0)
    return KMaxMambaDecoder(
        level_channels=(16, 16, 8, 8),
        organs=5,
        width=16,
        heads=4,
        feed_forward_width=16,
        state=4,
        state_space=state_space,
    )


def levels() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = zip((16, 16, 8, 8), (1, 2, 4, 8), strict=True)
    return [torch.randn((2, channels, size, size, size), generator=generator) for channels, size in sizes]


def test_a_center_is_the_mean_of_the_voxels_that_answer_to_its_query() -> None:
    response = torch.full((1, 3, 6), -50.0)
    owners = torch.tensor([0, 0, 1, 1, 1, 0])
    response[0, owners, torch.arange(6)] = 50.0
    feature = torch.randn(1, 6, 4)
    centers = cluster_centers(response, feature)[0]
    torch.testing.assert_close(centers[0], feature[0, owners == 0].mean(0))
    torch.testing.assert_close(centers[1], feature[0, owners == 1].mean(0))
    torch.testing.assert_close(centers[2], torch.zeros(4))


def test_the_assignment_is_hard_but_passes_a_gradient_to_the_response() -> None:
    torch.manual_seed(0)
    response = torch.randn(1, 3, 20, requires_grad=True)
    feature = torch.randn(1, 20, 4)
    centers = cluster_centers(response, feature)
    nudged = cluster_centers(response + 1e-5 * torch.randn_like(response), feature)
    torch.testing.assert_close(centers, nudged, rtol=0, atol=1e-4)  # no voxel changed hands
    (gradient,) = torch.autograd.grad(centers.square().sum(), response)
    assert gradient.abs().sum() > 0


def test_a_query_with_many_soft_and_no_hard_voxels_does_not_explode() -> None:
    response = torch.zeros(1, 2, 4096)
    response[:, 0] += 1e-3
    response.requires_grad_()
    feature = torch.ones(1, 4096, 4)
    (gradient,) = torch.autograd.grad(cluster_centers(response, feature)[:, 1].sum(), response)
    assert gradient.abs().sum() < 5.0  # undivided, it would be thousands


def test_the_decoder_answers_at_every_level() -> None:
    queries, responses = decoder()(levels())
    assert queries.shape == (2, 5, 16)
    assert [tuple(response.shape) for response in responses] == [(2, 5, size, size, size) for size in (1, 2, 4, 8)]


def test_row_2_of_table_5_has_no_state_space_layer() -> None:
    names = [type(module).__name__ for module in decoder(state_space=False).modules()]
    assert "SelectiveStateSpace" not in names
    queries, _ = decoder(state_space=False)(levels())
    assert queries.isfinite().all()


def test_batch_items_do_not_influence_each_other() -> None:
    network, features = decoder(), levels()
    queries, responses = network(features)
    alone, alone_responses = network([feature[1:] for feature in features])
    torch.testing.assert_close(queries[1:], alone)
    torch.testing.assert_close(responses[-1][1:], alone_responses[-1])
