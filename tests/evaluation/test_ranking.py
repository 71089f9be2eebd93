"""AUROC and FPR95 beside scikit-learn."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from dsmseg.errors import InputError
from dsmseg.evaluation import ranking
from dsmseg.evaluation.ranking import SHARE, ScoreCounts, count_scores

COUNT = 60_000


def peer(scores: NDArray, truth: NDArray) -> tuple[float, float]:
    """AUROC, and the FPR at the first threshold of the whole ROC curve whose TPR is 0.95 at least."""
    fpr, tpr, _ = roc_curve(truth.ravel(), scores.ravel().astype(np.float64), drop_intermediate=False)
    return float(roc_auc_score(truth.ravel(), scores.ravel().astype(np.float64))), float(fpr[np.argmax(tpr >= 0.95)])


def agree(state: ScoreCounts, scores: NDArray, truth: NDArray) -> None:
    auroc, fpr95 = peer(scores, truth)
    assert state.auroc == pytest.approx(auroc, abs=SHARE / 2)
    assert state.fpr95 == pytest.approx(fpr95, abs=SHARE)


def chance(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def logits(truth: NDArray) -> NDArray[np.float32]:
    return (chance(1).standard_normal(truth.size) * 3 - 4 + 3 * truth).astype(np.float32)


ADVERSARIAL: dict[str, Callable[[NDArray], NDArray]] = {
    "logits": logits,
    "logits times 1e30": lambda truth: logits(truth) * np.float32(1e30),
    "probabilities": lambda truth: 1 / (1 + np.exp(-logits(truth))),
    "saturated probabilities": lambda truth: 1 / (1 + np.exp(-5 * logits(truth))),
    "heavy ties": lambda truth: np.round(1 / (1 + np.exp(-logits(truth))), 1),
    "all equal": lambda truth: np.full(truth.size, 0.3, np.float32),
    "bytes": lambda truth: np.clip(logits(truth) * 10 + 128, 0, 255).astype(np.uint8),
    "bytes with a scale": lambda truth: (
        np.clip(logits(truth) * 10 + 128, 0, 255).astype(np.uint8) * np.float32(1 / 255)
    ),
    "half precision": lambda truth: logits(truth).astype(np.float16),
    "whole numbers below zero": lambda truth: (logits(truth) * 100).astype(np.int16),
    "large whole numbers": lambda truth: (logits(truth) * 1e8).astype(np.int64),
    "booleans": lambda truth: logits(truth) > -3,
    "tiny, close to 0": lambda truth: np.float32(1e-30) * (20 + logits(truth)),
    "below all normal numbers": lambda truth: np.float32(1e-42) * (20 + logits(truth)),
    "tiny differences close to 1": lambda truth: 1 - np.float32(1e-6) * (20 - logits(truth)),
    "tiny differences close to 1, float64": lambda truth: 1 - 1e-12 * (20 - logits(truth).astype(np.float64)),
    "float64 that float32 holds": lambda truth: logits(truth).astype(np.float64),
    "other byte order": lambda truth: logits(truth).astype(">f4"),
    "infinities": lambda truth: np.where(np.abs(logits(truth)) > 5, np.inf * np.sign(logits(truth)), logits(truth)),
    "two zeros": lambda truth: np.where(chance(2).random(truth.size) < 0.5, np.float32(-0.0), np.float32(0.0)),
    "half spread, half in one place": lambda truth: np.where(
        chance(3).random(truth.size) < 0.5, 0.5 + 1e-6 * logits(truth), chance(4).random(truth.size)
    ).astype(np.float32),
}


@pytest.mark.parametrize("kind", ADVERSARIAL)
@pytest.mark.parametrize("share", [0.3, 0.0005])
def test_agrees_with_scikit_learn_within_the_bound(kind: str, share: float) -> None:
    truth = chance().random(COUNT) < share
    scores = ADVERSARIAL[kind](truth)
    finite = np.nan_to_num(scores.astype(np.float64), posinf=1e300, neginf=-1e300)
    agree(count_scores(scores, truth), finite, truth)


@given(
    st.data(),
    st.integers(1, 300).flatmap(
        lambda n: arrays.arrays(np.float32, n, elements=st.floats(-8, 8, width=32) | st.sampled_from([0.0, 0.5, 1.0]))
    ),
)
def test_few_voxels_are_measured_exactly(data: st.DataObject, scores: NDArray[np.float32]) -> None:
    truth = data.draw(arrays.arrays(np.bool_, scores.shape))
    state = count_scores(scores, truth)
    if truth.all() or not truth.any():
        assert state.auroc is None
        assert state.fpr95 is None
        return
    auroc, fpr95 = peer(scores, truth)
    assert state.auroc == pytest.approx(auroc, abs=1e-12)
    assert state.fpr95 == pytest.approx(fpr95, abs=1e-12)


def test_what_was_rounded_keeps_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a share that rounds a lot, the states of scans and their sum."""
    monkeypatch.setattr(ranking, "SHARE", 0.01)
    monkeypatch.setattr(ranking, "_MOST_ROWS", 500)
    parts, all_scores, all_truth = [], [], []
    for seed in range(5):
        truth = chance(seed).random(COUNT) < 0.1
        centers = chance(seed).choice([0.5, 0.9, -3.0], truth.size)
        scores = (centers + chance(seed + 9).standard_normal(truth.size) * 1e-4 + 5e-5 * truth).astype(np.float32)
        parts.append(count_scores(scores, truth))
        assert parts[-1].auroc == pytest.approx(peer(scores, truth)[0], abs=0.005)
        all_scores.append(scores)
        all_truth.append(truth)
    pooled = sum(parts, ScoreCounts.empty())
    assert (pooled.positives, pooled.negatives) == (np.sum(all_truth), 5 * COUNT - np.sum(all_truth))
    assert pooled.auroc == pytest.approx(peer(np.stack(all_scores), np.stack(all_truth))[0], abs=0.02)


def test_pooled_over_scans_agrees_with_scikit_learn() -> None:
    truths = [chance(seed).random(COUNT) < 0.02 * seed for seed in range(1, 4)]
    scores = [
        ADVERSARIAL[kind](truth) for kind, truth in zip(("probabilities", "logits", "bytes"), truths, strict=True)
    ]
    pooled = sum((count_scores(a, b) for a, b in zip(scores, truths, strict=True)), ScoreCounts.empty())
    auroc, fpr95 = peer(np.concatenate([one.astype(np.float64) for one in scores]), np.concatenate(truths))
    assert pooled.auroc == pytest.approx(auroc, abs=2 * SHARE)
    assert pooled.fpr95 == pytest.approx(fpr95, abs=2 * SHARE)


def test_scores_of_float64_are_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_MOST_ROWS", 5000)
    truth = chance().random(COUNT) < 0.1
    scores = 0.5 + 1e-9 * (chance(1).random(COUNT) + 0.3 * truth)
    state = count_scores(scores, truth)
    assert len(state.scores) < COUNT
    assert state.auroc == pytest.approx(peer(scores, truth)[0], abs=1e-4)


def test_layout_in_memory_and_threads_make_no_difference() -> None:
    truth = chance().random((70, 60, 80)) < 0.1
    scores = chance(1).random(truth.shape, dtype=np.float32)
    plain = count_scores(scores, truth, threads=1)
    wide = np.zeros((140, 60, 160), np.float32)
    wide[::2, :, ::-2] = scores
    for one, other in (
        (np.asfortranarray(scores), truth),
        (wide[::2, :, ::-2], np.asfortranarray(truth)),
        (scores, truth),
    ):
        same = count_scores(one, other.astype(np.int32), threads=3)
        assert np.array_equal(same.scores, plain.scores)
        assert np.array_equal(same.counts, plain.counts)


def test_only_the_region_counts_and_nan_outside_of_it_is_none() -> None:
    truth = chance().random((20, 20, 20)) < 0.2
    scores = chance(1).random(truth.shape)
    region = chance(2).random(truth.shape) < 0.5
    expected = count_scores(scores[region], truth[region])
    scores[~region] = np.nan
    state = count_scores(scores, truth, region)
    assert state.auroc == expected.auroc
    with pytest.raises(InputError, match="NaN"):
        count_scores(scores, truth)
    with pytest.raises(InputError, match="NaN"):
        count_scores(scores.astype(np.float32), truth)


def test_no_voxel_is_no_figure() -> None:
    nothing = count_scores(np.zeros((3, 3, 3)), np.zeros((3, 3, 3), bool), np.zeros((3, 3, 3), bool))
    assert (nothing.auroc, nothing.fpr95, nothing.positives) == (None, None, 0)


@pytest.mark.parametrize(
    ("scores", "truth", "word"),
    [
        (np.zeros(3), np.zeros(4, bool), "shape"),
        (np.zeros(3), np.zeros(3), "mask"),
        (np.zeros(3, complex), np.zeros(3, bool), "real number"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores: NDArray, truth: NDArray, word: str) -> None:
    with pytest.raises(InputError, match=word):
        count_scores(scores, truth)
