"""Window attention on the processor: shift, cut, attend and join in one pass over the map, without any full matrix.

PyTorch writes and reads each window's logits several times; here four rows of them stay in the first-level cache. The
scratch arrays are flat, and their strides constants of the module, since only then does LLVM see that what is written
cannot overlap what is read, and vectorizes.
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor
from torch.nn import functional

from dsmseg.compilation import compiled
from dsmseg.model.kernels import in_threads
from dsmseg.model.kernels.fast_math import LOG2_E, exp2

ROW = 352
"""Logits in a row: the 343 tokens of a whole window, filled up to a multiple of the widest register."""

NOWHERE = -1e30
"""The logit of what only fills a row."""


def window_attention(
    qkv: Float[Tensor, "batch x y z three_channel"],
    padding: Float[Tensor, "three_channel"],
    bias: Float[Tensor, "head token token"],
    place: Int[Tensor, "window token"],
    region: Int[Tensor, "window token"],
    masked: float,
) -> Float[Tensor, "batch x y z channel"]:
    """Return what each token reads from its window.

    Args:
        qkv: queries, keys and values of every token, float32; a head's width is a multiple of 4.
        padding: those of tokens that lie beyond the map.
        bias: added to the logits; at most 343 tokens.
        place: which voxel of the map each token of each window is, row by row; -1 beyond the map.
        region: tokens of a window attend to each other fully where these are equal.
        masked: added to the logits where they are not.
    """
    heads, tokens, _ = bias.shape
    # Base-2 logits: the exponential is then a shift and a polynomial.
    rows = functional.pad(bias * float(LOG2_E), (0, ROW - tokens, 0, -tokens % 4), value=NOWHERE)
    read = torch.empty(*qkv.shape[:4], qkv.shape[4] // 3)
    maps = [qkv.contiguous().flatten(), padding, rows.flatten(1), place, region.int()]
    arrays = [tensor.detach().numpy() for tensor in maps]
    into = read.flatten().numpy()

    def work(start: int, stop: int) -> None:
        _attend(*arrays, np.float32(masked) * LOG2_E, into, start, stop)

    # Heads are the slow index, so that one head's bias stays in the second-level cache.
    in_threads(work, heads * len(qkv) * len(place))
    return read


@compiled(fastmath=True)
def _attend(
    qkv: Any, padding: Any, bias: Any, place: Any, region: Any, masked: Any, into: Any, start: int, stop: int
) -> None:
    channels = padding.size // 3
    width = channels // bias.shape[0]
    windows, tokens = place.shape
    voxels = place.max() + 1
    batch = into.size // channels // voxels
    query = np.zeros(width * ROW, np.float32)
    key, value = np.zeros_like(query), np.zeros_like(query)
    logits, total = np.empty(4 * ROW, np.float32), np.empty(4, np.float32)
    side = np.zeros(ROW, np.int32)
    scale, one = np.float32(LOG2_E / math.sqrt(width)), np.float32(1)
    for item in range(start, stop):
        head, index = item // (batch * windows), item % (batch * windows)
        first, window = index // windows * voxels, index % windows
        for kind, (part, factor) in enumerate(((query, scale), (key, one), (value, one))):
            _gather(qkv, padding, place[window], first, kind * channels + head * width, factor, part)
        side[:tokens] = region[window]
        is_divided = side[:tokens].min() != side[:tokens].max()
        for row in range(0, tokens, 4):
            _copy(bias[head, row * ROW :], logits)
            if is_divided:
                _separate(logits, side, row, masked)
            for channel in range(0, width, 4):
                _add_products(logits, query[channel * ROW + row :], key[channel * ROW :])
            _exponentiate(logits, total)
            for channel in range(0, width, 4):
                _mix(logits, value[channel * ROW :], total, query[channel * ROW + row :])
        _scatter(query, place[window], first * channels + head * width, channels, into)


@compiled(fastmath=True)
def _gather(qkv: Any, padding: Any, place: Any, first: int, channel: int, factor: Any, part: Any) -> None:
    """Copy one head's queries, keys or values of a window's tokens, channel by channel."""
    stride = padding.size
    origin = qkv[first * stride + channel :]
    for step in range(part.size // ROW):
        row = part[step * ROW :]
        for token in range(place.size):
            row[token] = factor * origin[max(place[token], 0) * stride + step]
    for token in range(place.size):
        if place[token] < 0:
            for step in range(part.size // ROW):
                part[step * ROW + token] = factor * padding[channel + step]


@compiled()
def _scatter(mixed: Any, place: Any, start: int, channels: int, into: Any) -> None:
    for token in range(place.size):
        if place[token] >= 0:
            for step in range(mixed.size // ROW):
                into[start + place[token] * channels + step] = mixed[step * ROW + token]


@compiled()
def _copy(source: Any, target: Any) -> None:
    for index in range(4 * ROW):
        target[index] = source[index]


@compiled(fastmath=True)
def _separate(logits: Any, region: Any, row: int, masked: Any) -> None:
    for own in range(4):
        for token in range(ROW):
            logits[own * ROW + token] += masked if region[token] != region[row + own] else np.float32(0)


@compiled(fastmath=True)
def _add_products(logits: Any, query: Any, key: Any) -> None:
    """Add four channels' products of four queries with every key."""
    a0, b0, c0, d0 = query[0], query[1], query[2], query[3]
    a1, b1, c1, d1 = query[ROW], query[ROW + 1], query[ROW + 2], query[ROW + 3]
    a2, b2, c2, d2 = query[2 * ROW], query[2 * ROW + 1], query[2 * ROW + 2], query[2 * ROW + 3]
    a3, b3, c3, d3 = query[3 * ROW], query[3 * ROW + 1], query[3 * ROW + 2], query[3 * ROW + 3]
    for token in range(ROW):
        k0, k1, k2, k3 = key[token], key[token + ROW], key[token + 2 * ROW], key[token + 3 * ROW]
        logits[token] += (a0 * k0 + a1 * k1) + (a2 * k2 + a3 * k3)
        logits[token + ROW] += (b0 * k0 + b1 * k1) + (b2 * k2 + b3 * k3)
        logits[token + 2 * ROW] += (c0 * k0 + c1 * k1) + (c2 * k2 + c3 * k3)
        logits[token + 3 * ROW] += (d0 * k0 + d1 * k1) + (d2 * k2 + d3 * k3)


@njit(inline="always")
def _ordered(bits: Any) -> Any:
    """Order floats by their bits: the maximum of integers vectorizes, that of floats does not. Its own inverse."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@compiled(fastmath=True)
def _exponentiate(logits: Any, total: Any) -> None:
    """Turn logits into 2 to their power, relative to their row's largest, and sum each row."""
    for row in range(4):
        largest = np.int32(-(2**31))
        for token in range(row * ROW, (row + 1) * ROW):
            largest = max(largest, _ordered(np.float32(logits[token]).view(np.int32)))
        reference = np.int32(_ordered(largest)).view(np.float32)
        total[row] = np.float32(0)
        summed = np.float32(0)
        for token in range(row * ROW, (row + 1) * ROW):
            power = exp2(logits[token] - reference)
            logits[token] = power
            summed += power
        total[row] = summed


@compiled(fastmath=True)
def _mix(weight: Any, value: Any, total: Any, mixed: Any) -> None:
    """Mix four channels of the values by four rows of weights."""
    zero = np.float32(0)
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = zero
    for token in range(ROW):
        v0, v1, v2, v3 = value[token], value[token + ROW], value[token + 2 * ROW], value[token + 3 * ROW]
        w = weight[token]
        a0 += w * v0
        a1 += w * v1
        a2 += w * v2
        a3 += w * v3
        w = weight[token + ROW]
        b0 += w * v0
        b1 += w * v1
        b2 += w * v2
        b3 += w * v3
        w = weight[token + 2 * ROW]
        c0 += w * v0
        c1 += w * v1
        c2 += w * v2
        c3 += w * v3
        w = weight[token + 3 * ROW]
        d0 += w * v0
        d1 += w * v1
        d2 += w * v2
        d3 += w * v3
    for row, sums in enumerate(((a0, a1, a2, a3), (b0, b1, b2, b3), (c0, c1, c2, c3), (d0, d1, d2, d3))):
        for channel in range(4):
            mixed[channel * ROW + row] = sums[channel] / total[row]
