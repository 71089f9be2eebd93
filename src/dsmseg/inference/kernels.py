"""The loops over all classes and voxels of blending and restoring, compiled.

PyTorch would go through the memory once for each operation; each loop here reads what it needs once. Who calls shares
out ``first`` to ``last``, or slices, to threads. Arrays are float32, but bits, labels and levels uint8, and numbers of
voxels int64. A box is six of them: the first voxel and the one after the last, along each axis; see `boxes.nowhere`.
"""
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201, ANN202

import numpy as np
from numba import njit

from dsmseg.compilation import compiled
from dsmseg.model.kernels.fast_math import LOG2_E, exp2

ONE = np.float32(1)
_LEVELS = np.float32(255)


@compiled(fastmath={"contract"}, error_model="numpy")
def add_sigmoid(first, last, logits, channels, weights, bars, total, boxes, x, y, z):  # pragma: no cover
    """Add ``weights`` times the sigmoid of a window's ``logits`` (channel, x, y, z) to ``total`` (field, x, y, z).

    Channels ``channels[first:last]`` go to the fields of the same numbers, at the corner ``x, y, z`` of ``total``. The
    ``boxes`` (field, 6) are widened to hold each voxel where a logit is more than its field's of ``bars``.
    """
    length = logits.shape[3]
    for field in range(first, last):
        box, bar = boxes[field], bars[field]
        for i in range(logits.shape[1]):
            for j in range(logits.shape[2]):
                row, weight, into = logits[channels[field], i, j], weights[i, j], total[field, x + i, y + j, z:]
                over = 0
                for k in range(length):
                    into[k] += weight[k] / (ONE + exp2(-row[k] * LOG2_E))
                    over += row[k] > bar
                if over > 0:
                    _widen(box, x + i, y + j)
                    for k in range(length):
                        if row[k] > bar:
                            box[4], box[5] = min(box[4], z + k), max(box[5], z + k + 1)


@compiled()
def move_down(first, last, total, slices):  # pragma: no cover
    """Leave out the first ``slices`` of each row of ``total`` (row, z), and add as many zeros at its end."""
    length = total.shape[1]
    kept = max(0, length - slices)
    buffer = np.zeros(length, np.float32)
    for number in range(first, last):
        row = total[number]
        for k in range(kept):
            buffer[k] = row[slices + k]
        for k in range(length):
            row[k] = buffer[k]


@compiled()
def claim(first, last, sums, offset, steps, weights, thresholds, within, bits, boxes):  # pragma: no cover
    """Find where each field's ``sums`` exceed its threshold's share of ``weights``.

    Args:
        first, last: bytes; each stands for eight fields.
        sums: flat; what belongs to field, x and y begins at ``offset`` and their ``steps``, and goes on along z.
        weights: (x, y, z). thresholds: (field,).
        within: (field, 6), the only boxes in which to look.
        bits: (byte, z, y, x), takes a bit for each of the first fields, as many as it has room for.
        boxes: (field, 6), are widened to hold what was found.
    """
    for field in range(8 * first, min(8 * last, len(boxes))):
        byte, bit = field // 8, np.uint8(128 >> (field % 8))
        box, inside, threshold = boxes[field], within[field], thresholds[field]
        z, length = inside[4], inside[5] - inside[4]
        for i in range(inside[0], inside[1]):
            for j in range(inside[2], inside[3]):
                begin = offset + field * steps[0] + i * steps[1] + j * steps[2] + z
                row, weight, over = sums[begin : begin + length], weights[i, j, z:], 0
                for k in range(length):
                    over += row[k] > threshold * weight[k]
                if over > 0:
                    _widen(box, i, j)
                    for k in range(length):
                        if row[k] > threshold * weight[k]:
                            box[4], box[5] = min(box[4], z + k), max(box[5], z + k + 1)
                            if byte < len(bits):
                                bits[byte, z + k, j, i] |= bit


@compiled()
def restore_levels(field, lower, fractions, levels):  # pragma: no cover
    """Interpolate ``field`` (z, y, x) to ``levels`` (z, y, x), in steps of 1/255."""
    plane, row = np.empty(field.shape[1:], np.float32), np.empty(field.shape[2], np.float32)
    for k in range(levels.shape[0]):
        _between_planes(field, lower[0][k], fractions[0][k], plane)
        for j in range(levels.shape[1]):
            _between_rows(plane, lower[1][j], fractions[1][j], row)
            for i in range(levels.shape[2]):
                levels[k, j, i] = np.uint8(np.rint(_between(row, lower[2][i], fractions[2][i]) * _LEVELS))


@compiled()
def raise_labels(field, lower, fractions, identity, labels, best):  # pragma: no cover
    """Label where the interpolated ``field`` (z, y, x) is more than ``best`` so far. labels and best are (z, y, x)."""
    plane, row = np.empty(field.shape[1:], np.float32), np.empty(field.shape[2], np.float32)
    for k in range(labels.shape[0]):
        _between_planes(field, lower[0][k], fractions[0][k], plane)
        for j in range(labels.shape[1]):
            if _between_rows(plane, lower[1][j], fractions[1][j], row):
                for i in range(labels.shape[2]):
                    score = _between(row, lower[2][i], fractions[2][i])
                    if score > best[k, j, i]:
                        best[k, j, i] = score
                        labels[k, j, i] = identity


@compiled()
def erase_label(field, lower, fractions, over, identity, labels):  # pragma: no cover
    """Set the label ``identity`` to 0 where the interpolated ``field`` is more than ``over``. Both are (z, y, x)."""
    plane, row = np.empty(field.shape[1:], np.float32), np.empty(field.shape[2], np.float32)
    for k in range(labels.shape[0]):
        _between_planes(field, lower[0][k], fractions[0][k], plane)
        for j in range(labels.shape[1]):
            _between_rows(plane, lower[1][j], fractions[1][j], row)
            for i in range(labels.shape[2]):
                if labels[k, j, i] == identity and _between(row, lower[2][i], fractions[2][i]) > over:
                    labels[k, j, i] = 0


@compiled()
def label_boxes(labels, start, boxes):  # pragma: no cover
    """Widen each label's box in ``boxes`` (label, 6), first and last voxel along z, y, x, to all of its voxels.

    ``labels`` (z, y, x) begin with slice ``start``.
    """
    for k in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            for i in range(labels.shape[2]):
                label = labels[k, j, i]
                if label > 0:
                    boxes[label, 0], boxes[label, 1] = (
                        min(boxes[label, 0], start + k),
                        max(boxes[label, 1], start + k + 1),
                    )
                    boxes[label, 2], boxes[label, 3] = min(boxes[label, 2], j), max(boxes[label, 3], j + 1)
                    boxes[label, 4], boxes[label, 5] = min(boxes[label, 4], i), max(boxes[label, 5], i + 1)


@njit(forceinline=True)
def _widen(box, x, y):  # pragma: no cover
    box[0], box[1] = min(box[0], x), max(box[1], x + 1)
    box[2], box[3] = min(box[2], y), max(box[3], y + 1)


@njit(forceinline=True)
def _between_planes(field, lower, fraction, plane):  # pragma: no cover
    """Interpolate between two slices. ``a + f (b - a)`` leaves a constant as it is, to the bit."""
    upper = min(lower + 1, field.shape[0] - 1)
    for j in range(plane.shape[0]):
        for i in range(plane.shape[1]):
            plane[j, i] = field[lower, j, i] + fraction * (field[upper, j, i] - field[lower, j, i])


@njit(forceinline=True)
def _between_rows(plane, lower, fraction, row):  # pragma: no cover
    """Interpolate between two rows; say whether anything is more than one half."""
    upper, over = min(lower + 1, plane.shape[0] - 1), 0
    for i in range(len(row)):
        value = plane[lower, i] + fraction * (plane[upper, i] - plane[lower, i])
        row[i] = value
        over += value > np.float32(0.5)
    return over > 0


@njit(forceinline=True)
def _between(row, lower, fraction):  # pragma: no cover
    return row[lower] + fraction * (row[min(lower + 1, len(row) - 1)] - row[lower])
