"""Semantic diffusion (Eq. 17) and its gradients on an NVIDIA GPU.

One kernel writes the guidance's squared distance over each of the 13 unordered neighbor pairs of a voxel, which all
channels share: 13 numbers a voxel. Another gathers: each voxel sums the fluxes of its 26 neighbors, so no two programs
write to the same place, and every result is the same in every run. The maps may be channels first or channels last.

An offset is coded as a number of three digits in base 3, one for each axis, where the digits 0, 1, 2 mean the steps
-1, 0, 1. Code 13 is the voxel itself; the codes 14 to 26 are the 13 pairs, each from its p to its q = p + offset, and
26 - code is the way back.
"""

import itertools
from typing import Any

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from triton import language as tl

PAIRS = 13
VOXELS = 64
CHANNELS = 32
"""The voxels, and the channels, that one program of a kernel holds at a time."""

_PAIRS = tl.constexpr(PAIRS)
_VOXELS = tl.constexpr(VOXELS)
_CHANNELS = tl.constexpr(CHANNELS)
_FIRST_CODE = tl.constexpr(PAIRS + 1)


def diffuse(
    feature: Float[Tensor, "batch channel x y z"],
    guidance: Float[Tensor, "batch guide x y z"],
    weights: Float[Tensor, "3 channel"],
    sharpness: Float[Tensor, "3"],
) -> Float[Tensor, "batch channel x y z"]:
    """Return F^ of Eq. 17 in ``feature``'s memory format; all tensors are float32."""
    conductance = _diffusivities(_distances(_dense(guidance)), sharpness)
    return _gather(_dense(feature), conductance, weights.contiguous())


def diffusivity_gradients(
    feature: Float[Tensor, "batch channel x y z"],
    guidance: Float[Tensor, "batch guide x y z"],
    weights: Float[Tensor, "3 channel"],
    sharpness: Float[Tensor, "3"],
    gradient: Float[Tensor, "batch channel x y z"],
) -> tuple[Float[Tensor, "batch guide x y z"], Float[Tensor, "3 channel"], Float[Tensor, "3"]]:
    """Return the gradients of guidance, weights and sharpness for ``gradient``, the one of ``diffuse``'s result.

    A diffusivity's slope along the squared distance is -s g, and the squared distance's along D[p] is -2 (D[q] - D[p])
    over the guidance's channels: the guidance's gradient is a diffusion, too, of the guidance itself.
    """
    guidance = _dense(guidance)
    distances = _distances(guidance)
    diffusivities = _diffusivities(distances, sharpness)
    responses, weight_sums = _respond(_dense(feature), _dense(gradient), diffusivities, weights.contiguous())
    kinds = _kinds(feature.device)
    weight_gradient = torch.zeros_like(weights).index_add(0, kinds, weight_sums)
    sharpness_gradient = torch.zeros_like(sharpness).index_add(0, kinds, -(responses * distances).sum(dim=(0, 2)))
    conductance = responses * (sharpness[kinds, None] * (2 / guidance.shape[1]))
    guidance_gradient = _gather(guidance, conductance, guidance.new_ones(3, guidance.shape[1]))
    return guidance_gradient, weight_gradient, sharpness_gradient


def _kinds(device: torch.device) -> Int[Tensor, "13"]:
    """Give, for each pair, 0, 1 or 2: its voxels share a face, an edge or a corner."""
    offsets = list(itertools.product((-1, 0, 1), repeat=3))[PAIRS + 1 :]
    return torch.tensor([sum(map(abs, offset)) - 1 for offset in offsets], device=device)


def _diffusivities(
    distances: Float[Tensor, "batch 13 voxel"], sharpness: Float[Tensor, "3"]
) -> Float[Tensor, "batch 13 voxel"]:
    return torch.exp(-sharpness[_kinds(distances.device), None] * distances)


def _dense(values: Float[Tensor, "batch channel x y z"]) -> Float[Tensor, "batch channel x y z"]:
    """Give the values in a format where voxels lie at one distance from each other, copied only if they do not."""
    return values if values.is_contiguous(memory_format=torch.channels_last_3d) else values.contiguous()


def _sizes(values: Float[Tensor, "batch channel x y z"]) -> tuple[int, ...]:
    """Give x, y, z, channels, and the strides of the batch, the channels and the voxels."""
    channels, voxels = values.shape[1], values.shape[2:].numel()
    # Not asked of the tensor: where a side is 1, its stride may be anything.
    last = values.is_contiguous(memory_format=torch.channels_last_3d)
    return *values.shape[2:], channels, channels * voxels, *((1, channels) if last else (voxels, 1))


def _distances(guidance: Float[Tensor, "batch guide x y z"]) -> Float[Tensor, "batch 13 voxel"]:
    """Return the mean squared difference of the guidance over each pair, zero where a pair leaves the map."""
    voxels = guidance.shape[2:].numel()
    result = guidance.new_empty(len(guidance), PAIRS, voxels)
    grid = triton.cdiv(voxels, VOXELS), PAIRS, len(guidance)
    _launch(_distance_kernel, grid, guidance, result, _sizes(guidance))
    return result


def _gather(
    source: Float[Tensor, "batch channel x y z"],
    conductance: Float[Tensor, "batch 13 voxel"],
    weights: Float[Tensor, "3 channel"],
) -> Float[Tensor, "batch channel x y z"]:
    """Return what flows into each voxel from its 26 neighbors."""
    result = torch.empty_like(source)
    grid = triton.cdiv(conductance.shape[2], VOXELS), triton.cdiv(source.shape[1], CHANNELS), len(source)
    _launch(_gather_kernel, grid, source, conductance, weights, result, _sizes(source))
    return result


def _respond(
    feature: Float[Tensor, "batch channel x y z"],
    gradient: Float[Tensor, "batch channel x y z"],
    diffusivities: Float[Tensor, "batch 13 voxel"],
    weights: Float[Tensor, "3 channel"],
) -> tuple[Float[Tensor, "batch 13 voxel"], Float[Tensor, "13 channel"]]:
    """Return g times the gradient of g for each pair, and the weights' gradients summed over the pairs of a kind."""
    batch, _, voxels = diffusivities.shape
    responses = torch.empty_like(diffusivities)
    blocks = triton.cdiv(voxels, VOXELS)
    weight_sums = feature.new_empty(batch, blocks, PAIRS, feature.shape[1])
    maps = feature, gradient, diffusivities, weights, responses, weight_sums
    _launch(_respond_kernel, (blocks, PAIRS, batch), *maps, _sizes(feature), _sizes(gradient))
    return responses, weight_sums.sum(dim=(0, 1))


def _launch(kernel: Any, grid: tuple[int, int, int], first: Float[Tensor, "..."], *arguments: Any) -> None:
    """Run a kernel on the device of its first argument, which need not be the current one."""
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
        kernel[grid](first, *arguments)


@triton.jit
def _neighbor(voxel: tl.tensor, code: tl.tensor, sizes: tl.tuple) -> tl.tuple:
    """Give the voxels that lie at the coded offset, and whether they are inside the map."""
    x = voxel // (sizes[1] * sizes[2]) + code // 9 - 1
    y = voxel // sizes[2] % sizes[1] + code // 3 % 3 - 1
    z = voxel % sizes[2] + code % 3 - 1
    inside = (voxel < sizes[0] * sizes[1] * sizes[2]) & (x >= 0) & (x < sizes[0])
    inside = inside & (y >= 0) & (y < sizes[1]) & (z >= 0) & (z < sizes[2])
    return (x * sizes[1] + y) * sizes[2] + z, inside


@triton.jit
def _kind(code: tl.tensor) -> tl.tensor:
    """Give 0, 1 or 2: the voxels at the coded offset share a face, an edge or a corner."""
    return tl.abs(code // 9 - 1) + tl.abs(code // 3 % 3 - 1) + tl.abs(code % 3 - 1) - 1


@triton.jit
def _load(values: tl.tensor, voxel: tl.tensor, channel: tl.tensor, inside: tl.tensor, sizes: tl.tuple) -> tl.tensor:
    """Load the given channels of the given voxels of this program's case."""
    case = tl.program_id(2).to(tl.int64) * sizes[4]
    mask = inside[:, None] & (channel < sizes[3])[None, :]
    return tl.load(values + case + voxel[:, None] * sizes[6] + channel[None, :] * sizes[5], mask=mask, other=0.0)


@triton.jit
def _pair_numbers(numbers: tl.tensor, pair: tl.tensor, voxel: tl.tensor, sizes: tl.tuple) -> tl.tensor:
    """Give where a pair's numbers at the given voxels are."""
    return numbers + (tl.program_id(2).to(tl.int64) * _PAIRS + pair) * (sizes[0] * sizes[1] * sizes[2]) + voxel


@triton.jit
def _distance_kernel(guidance: tl.tensor, result: tl.tensor, sizes: tl.tuple) -> None:
    pair = tl.program_id(1)
    p = tl.program_id(0) * _VOXELS + tl.arange(0, _VOXELS)
    q, inside = _neighbor(p, pair + _FIRST_CODE, sizes)
    total = tl.zeros((_VOXELS,), dtype=tl.float32)
    for first in range(0, sizes[3], _CHANNELS):
        channel = first + tl.arange(0, _CHANNELS)
        difference = _load(guidance, q, channel, inside, sizes) - _load(guidance, p, channel, inside, sizes)
        total += tl.sum(difference * difference, axis=1)
    tl.store(_pair_numbers(result, pair, p, sizes), total / sizes[3], mask=p < sizes[0] * sizes[1] * sizes[2])


@triton.jit
def _gather_kernel(
    source: tl.tensor, conductance: tl.tensor, weights: tl.tensor, result: tl.tensor, sizes: tl.tuple
) -> None:
    p = tl.program_id(0) * _VOXELS + tl.arange(0, _VOXELS)
    channel = tl.program_id(1) * _CHANNELS + tl.arange(0, _CHANNELS)
    within = p < sizes[0] * sizes[1] * sizes[2]
    value = _load(source, p, channel, within, sizes)
    total = tl.zeros((_VOXELS, _CHANNELS), dtype=tl.float32)
    for pair in range(_PAIRS):
        code = pair + _FIRST_CODE
        weight = tl.load(weights + _kind(code) * sizes[3] + channel, mask=channel < sizes[3], other=0.0)
        q, inside = _neighbor(p, code, sizes)
        along = tl.load(_pair_numbers(conductance, pair, p, sizes), mask=inside, other=0.0)
        flux = along[:, None] * (_load(source, q, channel, inside, sizes) - value)
        q, inside = _neighbor(p, 26 - code, sizes)
        along = tl.load(_pair_numbers(conductance, pair, q, sizes), mask=inside, other=0.0)
        flux += along[:, None] * (_load(source, q, channel, inside, sizes) - value)
        total += weight[None, :] * flux
    case = tl.program_id(2).to(tl.int64) * sizes[4]
    place = result + case + p[:, None] * sizes[6] + channel[None, :] * sizes[5]
    tl.store(place, total, mask=within[:, None] & (channel < sizes[3])[None, :])


@triton.jit
def _respond_kernel(
    feature: tl.tensor,
    gradient: tl.tensor,
    diffusivities: tl.tensor,
    weights: tl.tensor,
    responses: tl.tensor,
    weight_sums: tl.tensor,
    sizes: tl.tuple,
    gradient_sizes: tl.tuple,
) -> None:
    pair = tl.program_id(1)
    p = tl.program_id(0) * _VOXELS + tl.arange(0, _VOXELS)
    q, inside = _neighbor(p, pair + _FIRST_CODE, sizes)
    diffusivity = tl.load(_pair_numbers(diffusivities, pair, p, sizes), mask=inside, other=0.0)
    sums = weight_sums + ((tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * _PAIRS + pair) * sizes[3]
    total = tl.zeros((_VOXELS,), dtype=tl.float32)
    for first in range(0, sizes[3], _CHANNELS):
        channel = first + tl.arange(0, _CHANNELS)
        present = channel < sizes[3]
        product = _load(feature, q, channel, inside, sizes) - _load(feature, p, channel, inside, sizes)
        product *= _load(gradient, p, channel, inside, gradient_sizes) - _load(
            gradient, q, channel, inside, gradient_sizes
        )
        weight = tl.load(weights + _kind(pair + _FIRST_CODE) * sizes[3] + channel, mask=present, other=0.0)
        total += tl.sum(weight[None, :] * product, axis=1)
        tl.store(sums + channel, tl.sum(diffusivity[:, None] * product, axis=0), mask=present)
    within = p < sizes[0] * sizes[1] * sizes[2]
    tl.store(_pair_numbers(responses, pair, p, sizes), total * diffusivity, mask=within)
