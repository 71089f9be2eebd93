"""Semantic diffusion (Eq. 17) and its gradients on the processor.

A map is walked plane by plane along x. A plane and the following one are copied, channels last, into buffers that fit
the cache: any memory format is served without a second copy of the map, and every inner loop runs over channels. Each
pair of neighbors is visited once, since what enters one voxel leaves the other. A thread that begins inside a map
repeats the pairs with the plane before its own, so that no thread writes to another's planes, and every sum has the
same order for any number of threads.

Of a pair, p is the voxel in the nearer plane and q = p + offset the other one.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsmseg.compilation import compiled
from dsmseg.model.kernels import in_threads
from dsmseg.model.kernels.fast_math import LOG2_E, exp2

Array = Any
Offset = tuple[int, int, int]

WITHIN_PLANE = ((0, 0, 1), (0, 1, -1), (0, 1, 0), (0, 1, 1))
TO_NEXT_PLANE = tuple((1, y, z) for y in (-1, 0, 1) for z in (-1, 0, 1))
"""With those within a plane, the offsets of the 13 unordered neighbor pairs."""

_MAP = "float32[:, :, :, :, :]"
_COEFFICIENTS = "Tuple((float32[:, ::1], float32[::1]))"
_SUMS = "Tuple((float32[:, :, ::1], float32[:, ::1]))"


def diffuse(
    feature: Float[Tensor, "batch channel x y z"],
    guidance: Float[Tensor, "batch guide x y z"],
    weights: Float[Tensor, "3 channel"],
    sharpness: Float[Tensor, "3"],
) -> Float[Tensor, "batch channel x y z"]:
    """Return F^ of Eq. 17 in ``feature``'s memory format; all tensors are float32."""
    result = torch.empty_like(feature)
    maps = _channels_last(feature), _channels_last(guidance)
    coefficients = _array(weights), _array(sharpness)

    def work(start: int, stop: int) -> None:
        _diffuse_planes(maps, coefficients, _channels_last(result), start, stop)

    in_threads(work, feature.shape[0] * feature.shape[2])
    return result


def diffusivity_gradients(
    feature: Float[Tensor, "batch channel x y z"],
    guidance: Float[Tensor, "batch guide x y z"],
    weights: Float[Tensor, "3 channel"],
    sharpness: Float[Tensor, "3"],
    gradient: Float[Tensor, "batch channel x y z"],
) -> tuple[Float[Tensor, "batch guide x y z"], Float[Tensor, "3 channel"], Float[Tensor, "3"]]:
    """Return the gradients of guidance, weights and sharpness for ``gradient``, the one of ``diffuse``'s result."""
    planes = feature.shape[0] * feature.shape[2]
    guidance_gradient = torch.empty_like(guidance)
    weight_sums = torch.empty(planes, *weights.shape)
    sharpness_sums = torch.empty(planes, *sharpness.shape)
    maps = _channels_last(feature), _channels_last(guidance), _channels_last(gradient)
    coefficients = _array(weights), _array(sharpness)
    sums = weight_sums.numpy(), sharpness_sums.numpy()

    def work(start: int, stop: int) -> None:
        _gradient_planes(maps, coefficients, _channels_last(guidance_gradient), sums, start, stop)

    in_threads(work, planes)
    return guidance_gradient, weight_sums.sum(dim=0), sharpness_sums.sum(dim=0)


def _channels_last(values: Float[Tensor, "batch channel x y z"]) -> Array:
    return values.detach().permute(0, 2, 3, 4, 1).numpy()


def _array(values: Float[Tensor, "..."]) -> Array:
    return values.detach().contiguous().numpy()


@compiled(fastmath=True)
def _two_planes(values: Array) -> Array:
    return np.empty((2, *values.shape[2:]), np.float32)


@compiled(fastmath=True)
def _copy(source: Array, target: Array) -> None:
    """Copy a plane row by row: whichever side is strided, a row of it stays in the nearest cache."""
    for y in range(source.shape[0]):
        for c in range(source.shape[2]):
            for z in range(source.shape[1]):
                target[y, z, c] = source[y, z, c]


@compiled(fastmath=True)
def _load(maps: Array, case: int, x: int, buffers: Array, slot: int) -> None:
    for values, buffer in zip(maps, buffers):  # noqa: B905 - numba's zip takes no keywords
        _copy(values[case, x], buffer[slot])


@compiled(fastmath=True)
def _pair_rows(planes: Array, slots: tuple[int, int], y: int, offset: Offset) -> tuple[Array, Array]:
    """Give every p of row ``y`` that has its q inside the map, and those q."""
    size_z, step = planes.shape[2], offset[2]
    first, stop = max(0, -step), size_z - max(0, step)
    return planes[slots[0], y, first:stop], planes[slots[1], y + offset[1], first + step : stop + step]


@compiled(fastmath=True)
def _diffusivities(
    guides: Array,
    slots: tuple[int, int],
    y: int,
    offset: Offset,
    sharpness: np.float32,
    distance: Array,
    diffusivity: Array,
) -> None:
    """Give a row's mean squared differences of the guidance, and exp(-s distance) of them."""
    p, q = _pair_rows(guides, slots, y, offset)
    size_z, channels = p.shape
    for z in range(size_z):
        total = np.float32(0)
        for c in range(channels):
            difference = q[z, c] - p[z, c]
            total += difference * difference
        distance[z] = total / np.float32(channels)
    for z in range(size_z):
        diffusivity[z] = exp2(-sharpness * LOG2_E * distance[z])


@compiled(fastmath=True)
def _outer(row: Array, column: Array, result: Array) -> None:
    for z in range(result.shape[0]):
        for c in range(result.shape[1]):
            result[z, c] = row[z] * column[c]


@compiled(fastmath=True)
def _add_flux(total: Array, conductance: Array, there: Array, here: Array) -> None:
    for index in range(len(total)):
        total[index] += conductance[index] * (there[index] - here[index])


@compiled(fastmath=True)
def _add_fluxes(
    values: Array, totals: Array, slots: tuple[int, int], y: int, offset: Offset, conductance: Array
) -> None:
    """Add conductance (v[q] - v[p]) to p, and take it from q, for each pair of a row."""
    p, q = _pair_rows(values, slots, y, offset)
    total_p, total_q = _pair_rows(totals, slots, y, offset)
    _add_flux(total_p.reshape(-1), conductance.reshape(-1), q.reshape(-1), p.reshape(-1))
    _add_flux(total_q.reshape(-1), conductance.reshape(-1), p.reshape(-1), q.reshape(-1))


@compiled(fastmath=True)
def _exchange(
    buffers: Array, totals: Array, slots: tuple[int, int], offset: Offset, coefficients: Array, work: Array
) -> None:
    """Add the fluxes of every pair at ``offset`` between the planes in two slots of the buffers."""
    features, guides = buffers
    weights, sharpness = coefficients
    kind = abs(offset[0]) + abs(offset[1]) + abs(offset[2]) - 1
    pairs = totals.shape[2] - abs(offset[2])
    distance, diffusivity = work[0][0, :pairs], work[0][1, :pairs]
    conductance = work[1][:pairs]
    for y in range(max(0, -offset[1]), totals.shape[1] - max(0, offset[1])):
        _diffusivities(guides, slots, y, offset, sharpness[kind], distance, diffusivity)
        _outer(diffusivity, weights[kind], conductance)
        _add_fluxes(features, totals, slots, y, offset, conductance)


@compiled(f"(UniTuple({_MAP}, 2), {_COEFFICIENTS}, {_MAP}, int64, int64)", fastmath=True)
def _diffuse_planes(maps: Array, coefficients: Array, result: Array, start: int, stop: int) -> None:
    """Fill the planes from ``start`` to ``stop`` of ``result``, counted through all cases of the batch."""
    size, _, size_z, channels = result.shape[1:]
    buffers = _two_planes(maps[0]), _two_planes(maps[1])
    totals = _two_planes(result)
    work = np.empty((2, size_z), np.float32), np.empty((size_z, channels), np.float32)
    first = start - 1 if start % size else start
    for plane in range(first, stop):
        case, x = plane // size, plane % size
        here, there = plane % 2, (plane + 1) % 2
        if plane == first or x == 0:
            _load(maps, case, x, buffers, here)
            totals[here] = 0
        if plane >= start:
            for offset in WITHIN_PLANE:
                _exchange(buffers, totals, (here, here), offset, coefficients, work)
        if x + 1 < size:
            _load(maps, case, x + 1, buffers, there)
            totals[there] = 0
            for offset in TO_NEXT_PLANE:
                _exchange(buffers, totals, (here, there), offset, coefficients, work)
        if plane >= start:
            _copy(totals[here], result[case, x])


@compiled(fastmath=True)
def _multiply_differences(
    features: Array, gradients: Array, slots: tuple[int, int], y: int, offset: Offset, products: Array
) -> None:
    """Give (F[q] - F[p]) (L[p] - L[q]) with the result's gradient L: what a unit of g w_c adds to the loss."""
    feature_p, feature_q = _pair_rows(features, slots, y, offset)
    gradient_p, gradient_q = _pair_rows(gradients, slots, y, offset)
    for z in range(products.shape[0]):
        for c in range(products.shape[1]):
            products[z, c] = (feature_q[z, c] - feature_p[z, c]) * (gradient_p[z, c] - gradient_q[z, c])


@compiled(fastmath=True)
def _respond(
    products: Array, weights: Array, distance: Array, diffusivity: Array, response: Array, weight_part: Array
) -> np.float32:
    """Give g times the gradient of g for each pair of a row, add to the weights' gradients, return the sharpness's."""
    total = np.float32(0)
    for z in range(products.shape[0]):
        gradient = np.float32(0)
        for c in range(products.shape[1]):
            gradient += weights[c] * products[z, c]
            weight_part[c] += diffusivity[z] * products[z, c]
        response[z] = gradient * diffusivity[z]
        total -= response[z] * distance[z]
    return total


@compiled(fastmath=True)
def _exchange_gradients(
    buffers: Array,
    totals: Array,
    slots: tuple[int, int],
    offset: Offset,
    coefficients: Array,
    part: Array,
    work: Array,
) -> None:
    """Add what every pair at ``offset`` gives to the gradients of the guidance, the weights and the sharpness.

    A diffusivity's slope along the squared distance is -s g, and the squared distance's along D[p] is -2 (D[q] - D[p])
    over the guidance's channels: the guidance's gradient is a diffusion, too, of the guidance itself.
    """
    features, guides, gradients = buffers
    weights, sharpness = coefficients
    kind = abs(offset[0]) + abs(offset[1]) + abs(offset[2]) - 1
    pairs = totals.shape[2] - abs(offset[2])
    distance, diffusivity, response = work[0][0, :pairs], work[0][1, :pairs], work[0][2, :pairs]
    conductance, products = work[1][:pairs], work[2][:pairs]
    scale = np.full(guides.shape[3], np.float32(2) * sharpness[kind] / np.float32(guides.shape[3]), np.float32)
    for y in range(max(0, -offset[1]), totals.shape[1] - max(0, offset[1])):
        _diffusivities(guides, slots, y, offset, sharpness[kind], distance, diffusivity)
        _multiply_differences(features, gradients, slots, y, offset, products)
        part[1][kind] += _respond(products, weights[kind], distance, diffusivity, response, part[0][kind])
        _outer(response, scale, conductance)
        _add_fluxes(guides, totals, slots, y, offset, conductance)


@compiled(f"(UniTuple({_MAP}, 3), {_COEFFICIENTS}, {_MAP}, {_SUMS}, int64, int64)", fastmath=True)
def _gradient_planes(maps: Array, coefficients: Array, result: Array, sums: Array, start: int, stop: int) -> None:
    """Fill the planes from ``start`` to ``stop`` of the guidance's gradient, and each plane's part of the sums."""
    size, _, size_z, guides = result.shape[1:]
    buffers = _two_planes(maps[0]), _two_planes(maps[1]), _two_planes(maps[2])
    totals = _two_planes(result)
    products = np.empty((size_z, maps[0].shape[4]), np.float32)
    work = np.empty((3, size_z), np.float32), np.empty((size_z, guides), np.float32), products
    part = np.empty(sums[0].shape[1:], np.float32), np.empty(sums[1].shape[1], np.float32)
    first = start - 1 if start % size else start
    for plane in range(first, stop):
        case, x = plane // size, plane % size
        here, there = plane % 2, (plane + 1) % 2
        part[0][:] = 0
        part[1][:] = 0
        if plane == first or x == 0:
            _load(maps, case, x, buffers, here)
            totals[here] = 0
        if plane >= start:
            for offset in WITHIN_PLANE:
                _exchange_gradients(buffers, totals, (here, here), offset, coefficients, part, work)
        if x + 1 < size:
            _load(maps, case, x + 1, buffers, there)
            totals[there] = 0
            for offset in TO_NEXT_PLANE:
                _exchange_gradients(buffers, totals, (here, there), offset, coefficients, part, work)
        if plane >= start:
            _copy(totals[here], result[case, x])
            sums[0][plane] = part[0]
            sums[1][plane] = part[1]
