"""Standardized max logits: statistics as numpy has them, and an anomaly that boundaries do not cause."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from dsmseg.baselines.sml import boundary, max_logits, smooth, suppress_boundary

BACKGROUND = 45


def largest_by_numpy(logits: np.ndarray, trained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and class of each voxel's largest logit; background where none is positive."""
    known = logits[:, trained]
    value, place = known.max(axis=1), np.flatnonzero(trained)[known.argmax(axis=1)]
    return np.abs(value), np.where(value > 0, place, BACKGROUND)


def test_statistics_are_those_of_the_largest_logits_of_all_batches_together(make, image) -> None:
    network = make("sml").eval()
    with torch.no_grad():
        network.head.weight.mul_(20)
        network.head.bias.add_(1.5)
    pictures = [image(network), image(network, batch=2) ** 2, image(network) * 3]
    for picture in pictures:
        network.add(network.moments(picture))
    with torch.no_grad():
        found = [largest_by_numpy(network.logits(one).numpy(), network.trained.numpy()) for one in pictures]
    value, index = (np.concatenate([one[part].ravel() for one in found]).astype(np.float64) for part in (0, 1))
    mean, deviation = network.statistics()
    enough = 0
    for one in range(46):
        own = value[index == one]
        assert int(network.count[one]) == len(own)
        if len(own) < 2:
            own = value
        else:
            enough += 1
        assert float(mean[one]) == pytest.approx(own.mean(), rel=1e-4)
        assert float(deviation[one]) == pytest.approx(max(own.std(), 1e-3), rel=1e-3)
    assert enough > 1
    assert int(network.count.sum()) == 4 * 64 * 32 * 32


def test_statistics_survive_the_weights_file_s_fp16(make, image) -> None:
    network = make("sml").eval()
    network.add(network.moments(image(network)))
    before = network.statistics()
    for one in (network.mean, network.variance):
        one.copy_(one.half())
    for one, other in zip(network.statistics(), before, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-4)


def test_a_voxel_that_is_as_sure_as_usual_scores_zero_and_a_less_sure_one_is_an_anomaly(make) -> None:
    network = make("sml").eval()
    network.count[3], network.mean[3], network.variance[3] = 100, 5.0, 4.0
    logits = torch.full((1, 45, 16, 16, 16), -9.0)
    logits[:, 3] = 5.0
    logits[:, 3, 4:12, 4:12, 4:12] = 1.0  # two deviations below
    score = network.score(max_logits(logits, network.trained))[0]
    assert float(score[0, 0, 0]) == pytest.approx(0.0, abs=1e-5)
    assert float(score[8, 8, 8]) == pytest.approx(-2.0, abs=0.05)


def test_classes_without_labels_are_no_prediction(make) -> None:
    logits = torch.full((1, 45, 2, 2, 2), -3.0)
    logits[:, 44] = 7.0
    value, predicted = max_logits(logits, make("sml").trained)
    assert set(predicted.flatten().tolist()) == {BACKGROUND}
    assert set(value.flatten().tolist()) == {3.0}


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_boundary_has_voxels_of_another_class_within_its_width(width) -> None:
    predicted = torch.zeros(1, 9, 8, 7, dtype=torch.int64)
    predicted[0, 3:6, 2:8, 1:3] = 4
    predicted[0, 8, 7, 6] = 2
    found = boundary(predicted, width)[0]
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (9, 8, 7)), indexing="ij"), dim=-1).view(-1, 3)
    labels = predicted[0].flatten()
    apart = (places[:, None] - places[None]).abs().sum(-1)
    expected = ((apart <= width) & (labels[:, None] != labels[None])).any(dim=1)
    assert torch.equal(found.flatten(), expected)


def test_scores_at_a_boundary_become_the_mean_of_neighbors_that_are_not_at_one() -> None:
    score = torch.rand(1, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    at_boundary = torch.rand(1, 5, 6, 7, generator=torch.Generator().manual_seed(1)) < 0.7
    found = suppress_boundary(score, at_boundary)[0]
    padded, kept = np.pad(score[0].numpy(), 1), np.pad(~at_boundary[0].numpy(), 1)
    for place in np.ndindex(5, 6, 7):
        around = tuple(slice(one, one + 3) for one in place)
        near = padded[around][kept[around]]
        expected = near.mean() if at_boundary[0][place] and len(near) else float(score[0][place])
        assert float(found[place]) == pytest.approx(expected, rel=1e-5)


def test_smoothing_is_a_gaussian_of_one_voxel() -> None:
    score = torch.rand(1, 9, 10, 11, generator=torch.Generator().manual_seed(0))
    expected = ndimage.gaussian_filter(score[0].numpy(), 1.0, mode="nearest", radius=3)
    np.testing.assert_allclose(smooth(score)[0].numpy(), expected, rtol=1e-4)


def test_the_anomaly_falls_with_the_score_and_organs_are_the_segmentation_network_s(make, image) -> None:
    network, plain = make("sml").eval(), make("swin_unetr").eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    network.add(network.moments(image(network)))
    with torch.inference_mode():
        output, expected = network(image(network)), plain(image(network))
        score = network.score(max_logits(network.logits(image(network)), network.trained))
    assert torch.equal(output.organ_logits, expected.organ_logits)
    order = score.flatten().argsort()
    assert (output.anomaly.flatten()[order].diff() <= 1e-6).all()
