"""Semantic diffusion (§ 4.2.2): one explicit step that smooths a map everywhere but across semantic edges."""

import itertools
import math
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dsmseg.model.kernels import use_numba, use_triton

Slices = tuple[slice, ...]

NEIGHBORS_BY_DISTANCE = (6, 12, 8)
"""How many of the 26 neighbors share a face, an edge, a corner with the center."""


def _pair_slices(offset: tuple[int, ...]) -> tuple[Slices, Slices]:
    """Slices of a (batch, channel, x, y, z) map that hold every p, and every p + offset, inside the map."""
    here = {-1: slice(1, None), 0: slice(None), 1: slice(None, -1)}
    there = {-1: slice(None, -1), 0: slice(None), 1: slice(1, None)}
    everything = (slice(None), slice(None))
    return everything + tuple(here[step] for step in offset), everything + tuple(there[step] for step in offset)


HALF_NEIGHBORHOOD: tuple[tuple[tuple[Slices, Slices], ...], ...] = tuple(
    tuple(
        _pair_slices(offset)
        for offset in itertools.product((-1, 0, 1), repeat=3)
        if offset > (0, 0, 0) and sum(map(abs, offset)) == distance
    )
    for distance in (1, 2, 3)
)
"""The 13 unordered neighbor pairs, grouped by what the two voxels share: 3 faces, 6 edges, 4 corners."""


def diffuse(
    feature: Float[Tensor, "batch channel x y z"],
    guidance: Float[Tensor, "batch guide x y z"],
    weights: Float[Tensor, "3 channel"],
    sharpness: Float[Tensor, "3"],
) -> Float[Tensor, "batch channel x y z"]:
    """Return F^ of Eq. 17; weights and sharpness are those of neighbors that share a face, an edge, a corner.

    This is the plain twin of ``kernels/diffusion_cpu.py`` and ``kernels/diffusion_cuda.py``.
    """
    total = torch.zeros_like(feature)
    for pairs, weight, sharp in zip(HALF_NEIGHBORHOOD, weights, sharpness, strict=True):
        inflow = torch.zeros_like(feature)
        for here, there in pairs:
            distance = (guidance[there] - guidance[here]).square().mean(dim=1, keepdim=True)
            # What enters one voxel leaves the other, so each pair is computed once.
            flux = torch.exp(-sharp * distance) * (feature[there] - feature[here])
            inflow[here] += flux
            inflow[there] -= flux
        total = total + weight[:, None, None, None] * inflow
    return total


class KernelDiffusion(torch.autograd.Function):
    """``diffuse`` by one of the modules in ``kernels``: keeps nothing but its inputs for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: ModuleType,
        feature: Float[Tensor, "batch channel x y z"],
        guidance: Float[Tensor, "batch guide x y z"],
        weights: Float[Tensor, "3 channel"],
        sharpness: Float[Tensor, "3"],
    ) -> Float[Tensor, "batch channel x y z"]:
        """Return F^ of float32 tensors that the kernels serve."""
        ctx.kernels = kernels
        ctx.save_for_backward(feature, guidance, weights, sharpness)
        diffused: Tensor = kernels.diffuse(feature, guidance, weights, sharpness)
        return diffused

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "batch channel x y z"]) -> tuple[Tensor | None, ...]:
        """Return the gradients of the four tensors."""
        feature, *coefficients = ctx.saved_tensors
        of_feature, of_coefficients = None, (None, None, None)
        if ctx.needs_input_grad[1]:
            # F^ is linear in F, and what p gets of q is what q gets of p: the step is its own adjoint.
            of_feature = ctx.kernels.diffuse(gradient, *coefficients)
        if any(ctx.needs_input_grad[2:]):
            of_coefficients = ctx.kernels.diffusivity_gradients(feature, *coefficients, gradient)
        return None, of_feature, *of_coefficients


class SemanticDiffusion(nn.Module):
    """The diffused difference of Eq. 17, which discretizes Eq. 16 at t = 1.

    The diffusivity is g = w_c exp(-s |D[q] - D[p]|^2), with |.|^2 the mean over guidance channels. Its learnable parts
    are shared by all neighbors at one distance (face, edge, corner): a sharpness s >= 0, and a weight w_c >= 0 for
    each channel. The 26 weights of a channel sum to less than 1, so that F + F^ is a convex combination of F's values:
    the step is stable and never leaves F's range. A neighbor outside the map repeats the voxel itself: no flux crosses
    the border, so the sum over the map is kept.
    """

    def __init__(self, channels: int) -> None:
        """Build for feature maps of ``channels`` channels; the guidance may have any number."""
        super().__init__()
        distances = len(NEIGHBORS_BY_DISTANCE)
        softplus_of_one = math.log(math.e - 1)
        self.raw_sharpness = nn.Parameter(torch.full((distances,), softplus_of_one))
        # The additional share is what a voxel keeps at least of its own value.
        self.share_logits = nn.Parameter(torch.zeros(distances + 1, channels))
        self.register_buffer("neighbors", torch.tensor(NEIGHBORS_BY_DISTANCE)[:, None], persistent=False)
        self.neighbors: Tensor

    def neighbor_weights(self) -> Float[Tensor, "3 channel"]:
        """Return w_c of one neighbor that shares a face, an edge, a corner."""
        return self.share_logits.softmax(dim=0)[:-1] / self.neighbors

    def sharpness(self) -> Float[Tensor, "3"]:
        """Return s of neighbors that share a face, an edge, a corner."""
        return functional.softplus(self.raw_sharpness)

    def forward(
        self,
        feature: Float[Tensor, "batch channel x y z"],
        guidance: Float[Tensor, "batch guide x y z"],
    ) -> Float[Tensor, "batch channel x y z"]:
        """Return F^ of ``feature`` under ``guidance`` (Eq. 17), in the feature's type.

        The sums run in float32 at least: F^ is a sum of small differences, which half precision would lose.

        Raises:
            ValueError: the two maps differ in more than their channels, or ``feature`` is not what this was built for.
        """
        _check(feature, guidance, self.share_logits.shape[1])
        precision = torch.promote_types(feature.dtype, torch.float32)
        inputs = feature, guidance, self.neighbor_weights(), self.sharpness()
        source, guide, weights, sharpness = (tensor.to(precision) for tensor in inputs)
        kernels = _kernels(source, guide, weights, sharpness)
        if kernels is None:
            return diffuse(source, guide, weights, sharpness).to(feature.dtype)
        diffused: Tensor = KernelDiffusion.apply(kernels, source, guide, weights, sharpness)  # type: ignore[no-untyped-call]
        return diffused.to(feature.dtype)


def _check(feature: Tensor, guidance: Tensor, channels: int) -> None:
    """Refuse what the kernels, which trust their sizes, would read past its end."""
    if feature.shape[1] != channels:
        raise ValueError(f"the feature map has {feature.shape[1]} channels, not {channels}")
    if feature.shape[:1] + feature.shape[2:] != guidance.shape[:1] + guidance.shape[2:]:
        found = f"{tuple(feature.shape)} and {tuple(guidance.shape)}"
        raise ValueError(f"feature and guidance differ in more than their channels: {found}")


def _kernels(*tensors: Tensor) -> ModuleType | None:
    """Give the fast path that serves the tensors, if any; loaded only now, since numba and Triton are slow to load."""
    if use_numba(*tensors):
        from dsmseg.model.kernels import diffusion_cpu

        return diffusion_cpu
    if use_triton(*tensors):
        from dsmseg.model.kernels import diffusion_cuda

        return diffusion_cuda
    return None
