"""A residual block on the processor, slab by slab: convolve, normalize, activate while a few planes lie in the cache.

At full resolution a map takes 170 MB (48 channels, 96 voxels along each edge), and memory costs more than arithmetic
everywhere but in the convolutions. So only what instance normalization forces is kept whole: the two convolutions'
outputs, each followed by statistics of the whole map. The block's input comes in planes, made when they are asked for,
and is never there as a whole.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dsmseg.model.kernels.products import convolve
from dsmseg.model.kernels.standardize import Statistics, activate, add_and_activate_

SLAB_BYTES = 2**23
"""Of a convolution's output; the last-level cache holds it and what it is made from."""

Planes = Callable[[int, Float[Tensor, "1 input plane y z"]], object]
"""Writes the planes from a first one along x into a slab."""


class Weights(NamedTuple):
    """Of the convolutions of a residual block; ``shortcut`` is None where input and output have as many channels."""

    first: Float[Tensor, "output input 3 3 3"]
    second: Float[Tensor, "output output 3 3 3"]
    shortcut: Float[Tensor, "output input 1 1 1"] | None


def residual_block(
    planes: Planes,
    inner: Float[Tensor, "1 output x y z"],
    into: Float[Tensor, "1 output x y z"],
    weights: Weights,
    *,
    slope: float,
) -> None:
    """Compute ``leaky_relu(norm(second(leaky_relu(norm(first(input))))) + norm(shortcut(input)))``.

    Args:
        planes: gives the input. It is asked for an even first plane, and for an even number of them except the last.
        inner: room for the first convolution's output, of the type and format of ``into``.
        into: receives the output, in the format channels_last_3d. Its type is the convolutions'.
        weights: of the three convolutions; the shortcut's norm is there where its convolution is.
        slope: of the leaky rectifier, where its argument is negative.
    """
    statistics, shortcut_statistics = Statistics(into.shape[1]), Statistics(into.shape[1])
    for start, wide in _bordered(planes, weights.first.shape[1], into):
        statistics.add(_store(inner, start, convolve(wide, weights.first)))
        if weights.shortcut is not None:
            shortcut_statistics.add(convolve(wide[:, :, 1:-1], weights.shortcut))
    standardization = statistics.scale_and_offset()

    def activated(start: int, slab: Tensor) -> None:
        activate(inner[:, :, start : start + slab.shape[2]], standardization, slope, slab)

    statistics = Statistics(into.shape[1])
    for start, wide in _bordered(activated, into.shape[1], into):
        statistics.add(_store(into, start, convolve(wide, weights.second)))
    standardization = statistics.scale_and_offset()
    shortcut_standardization = None if weights.shortcut is None else shortcut_statistics.scale_and_offset()
    step = _planes_in_slab(into)
    room = _slab(weights.first.shape[1], step, into)
    for start in range(0, into.shape[2], step):
        slab = into[:, :, start : start + step]
        shortcut = room[:, :, : slab.shape[2]]
        planes(start, shortcut)
        if weights.shortcut is not None:
            shortcut = convolve(shortcut, weights.shortcut)
        add_and_activate_(slab, standardization, shortcut, shortcut_standardization, slope)


def _planes_in_slab(feature: Float[Tensor, "1 channel x y z"]) -> int:
    """An even number, at least 2."""
    plane = feature[:, :, 0].numel() * feature.element_size()
    return max(2, SLAB_BYTES // plane // 2 * 2)


def _slab(channels: int, planes: int, like: Float[Tensor, "1 channel x y z"]) -> Float[Tensor, "1 _ plane y z"]:
    size = (1, channels, min(planes, like.shape[2] + 3), *like.shape[3:])
    return torch.empty(size, dtype=like.dtype, memory_format=torch.channels_last_3d)


def _bordered(
    planes: Planes, channels: int, like: Float[Tensor, "1 channel x y z"]
) -> Iterator[tuple[int, Float[Tensor, "1 _ plane y z"]]]:
    """Yield slabs with a plane more on each side, zeros beyond the map, and the first plane between these two.

    Each plane is asked for once: a slab's last two planes are the next one's first.
    """
    count, step = like.shape[2], _planes_in_slab(like)
    room = _slab(channels, step + 3, like)
    room[:, :, 1] = 0
    for loaded in range(0, count, step):
        planes_here = min(step, count - loaded)
        planes(loaded, room[:, :, 2 : 2 + planes_here])
        is_first, is_last = loaded == 0, loaded + planes_here == count
        if is_last:
            room[:, :, 2 + planes_here] = 0
        yield max(loaded - 1, 0), room[:, :, int(is_first) : 2 + planes_here + int(is_last)]
        room[:, :, :2] = room[:, :, planes_here : planes_here + 2].clone()


def _store(
    whole: Float[Tensor, "1 channel x y z"], start: int, slab: Float[Tensor, "1 channel plane y z"]
) -> Float[Tensor, "1 channel plane y z"]:
    whole[:, :, start : start + slab.shape[2]] = slab
    return slab
