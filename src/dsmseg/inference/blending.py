"""The sliding window: the network's answers for overlapping windows, blended into one field for each class.

Windows go from the feet to the head. As soon as no further window reaches a slice, it is finished and handed on, so
that only as many slices of all classes are held as a window is high.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.inference.runtime import Runtime
from dsmseg.inference.windows import Size, Slices, channels, gaussian_weights, padding_to, place_windows
from dsmseg.model import DSMOutput

Progress = Callable[[int, int], None]

_SLAB_SLICES = 24


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a scan is cut and seen.

    Attributes:
        size: of a window, voxels.
        overlap: least share that neighboring windows have in common.
        hu_windows: the network's input channels.
        organs, tumors: the network's output channels to keep, each a field of its own.
        other_organs, other_tumors: channels that matter only where they are more probable than those: all of a kind
            become one field, the last of its kind, their highest.
    """

    size: Size
    overlap: float
    hu_windows: Sequence[tuple[float, float]]
    organs: Sequence[int]
    tumors: Sequence[int] = ()
    other_organs: Sequence[int] = ()
    other_tumors: Sequence[int] = ()

    @property
    def organ_fields(self) -> int:
        """Fields of organs, the one of all others included."""
        return len(self.organs) + bool(self.other_organs)

    @property
    def fields(self) -> int:
        """Fields of organs, of tumors and of the anomaly."""
        return self.organ_fields + len(self.tumors) + bool(self.other_tumors) + 1


@dataclass(frozen=True, slots=True)
class Slab:
    """Slices ``start`` to ``stop`` of the working grid, of which those from ``new`` on were not in the slab before.

    Fields are float32 on the CPU, 0..1, and 0 outside of the body. ``anomaly`` is 1 + A of Eq. 14: 1 less the response
    of the organ query that fits best.
    """

    start: int
    stop: int
    new: int
    organs: Float[Tensor, "organ z y x"]
    tumors: Float[Tensor, "tumor z y x"]
    anomaly: Float[Tensor, "z y x"]


class SlidingWindow:
    """Runs a network over all windows that hold body, and blends its soft masks, weighing each by a Gaussian."""

    def __init__(
        self,
        network: nn.Module,
        hu: Float[NDArray[np.float32], "x y z"],
        body: Bool[NDArray[np.bool_], "x y z"],
        tiling: Tiling,
        runtime: Runtime,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Lay the windows.

        Args:
            network: gives a DSMOutput for (window, channel, x, y, z), on the runtime's device.
            hu: the scan at the working spacing; what is smaller than a window repeats its last slices, as thin scans
                did in training. Air there would look like the end of the body.
            body: only inside of it do fields differ from 0.
            tiling: windows, and classes to keep.
            runtime: device, precision, windows at once.
            progress: is called with (windows done, windows in all).
        """
        padding = padding_to(hu.shape, tiling.size)
        self._network, self._tiling, self._runtime, self._progress = network, tiling, runtime, progress
        self._hu = torch.from_numpy(np.pad(hu, padding, mode="edge") if np.any(padding) else hu)
        self._body = torch.from_numpy(np.ascontiguousarray(body.T))
        padded_body = np.pad(body, padding) if np.any(padding) else body
        self.windows = sorted(place_windows(padded_body, tiling.size, tiling.overlap), key=lambda one: one[2].start)
        self._shape = hu.shape
        self._inner = [slice(before, before + length) for (before, _), length in zip(padding, hu.shape, strict=True)]

    def __iter__(self) -> Iterator[Slab]:
        """Give all slices of the working grid, from the feet to the head, a few at a time, each with the one before."""
        held = torch.zeros(self._tiling.fields, 0, *self._shape[1::-1])
        position = 0
        for finished in self._finished():
            stop = position + finished.shape[1]
            fields = torch.cat([held, finished], dim=1)
            held = finished[:, -1:].clone()
            start = stop - fields.shape[1]
            organs = self._tiling.organ_fields
            yield Slab(start, stop, position, fields[:organs], fields[organs:-1], fields[-1])
            position = stop

    def _finished(self) -> Iterator[Float[Tensor, "field z y x"]]:
        """Blend, and give what is finished: the inner slices in order, a few at a time."""
        height = self._tiling.size[2]
        total = torch.zeros(self._tiling.fields, *self._hu.shape[:2], height)
        weight = torch.zeros(*self._hu.shape[:2], height)
        base, end = 0, self._hu.shape[2]
        done = 0
        for start, layer in groupby(self.windows, key=lambda one: one[2].start):
            yield from self._normalized(total, weight, base, start)
            _move_down(total, start - base)
            _move_down(weight, start - base)
            base = start
            for count in self._add_layer(list(layer), total, weight):
                done += count
                if self._progress is not None:
                    self._progress(done, len(self.windows))
        yield from self._normalized(total, weight, base, end)

    def _add_layer(self, layer: Sequence[Slices], total: Tensor, weight: Tensor) -> Iterator[int]:
        """Add windows of one height, and give how many were added each time."""
        window_weight = gaussian_weights(self._tiling.size)
        for first in range(0, len(layer), self._runtime.windows_at_once):
            batch = layer[first : first + self._runtime.windows_at_once]
            image = torch.cat([channels(self._hu[window], self._tiling.hu_windows) for window in batch])
            place = 0
            for fields in self._fields(image):
                kept = slice(place, place := place + fields.shape[1])
                for window, of_window in zip(batch, fields, strict=True):
                    total[kept, window[0], window[1]].addcmul_(of_window, window_weight)
            for window in batch:
                weight[window[0], window[1]] += window_weight
            yield len(batch)

    @torch.inference_mode()
    def _fields(self, image: Float[Tensor, "window channel x y z"]) -> list[Float[Tensor, "window field x y z"]]:
        """Give the fields in their order, in a few tensors."""
        runtime, tiling = self._runtime, self._tiling
        image = image.to(runtime.device, memory_format=torch.channels_last_3d)
        with torch.autocast(runtime.device.type, runtime.dtype, enabled=runtime.dtype != torch.float32):
            output: DSMOutput = self._network(image)
        masks = _masks(output.organ_logits, tiling.organs, tiling.other_organs)
        if tiling.tumors:
            if output.tumor_logits is None:
                raise ValueError("the card names tumors, but its network gives none")
            masks += _masks(output.tumor_logits, tiling.tumors, tiling.other_tumors)
        anomaly = 1 + output.anomaly[:, None].float()
        masks.append(functional.interpolate(anomaly, tiling.size, mode="trilinear", align_corners=False))
        return [mask.cpu() for mask in masks]

    def _normalized(self, total: Tensor, weight: Tensor, base: int, stop: int) -> Iterator[Float[Tensor, "f z y x"]]:
        """Give the slices from ``base`` to ``stop``; those that no window has reached are 0."""
        x, y, z = self._inner
        for start in range(max(base, z.start), min(stop, z.stop), _SLAB_SLICES):
            end = min(start + _SLAB_SLICES, stop, z.stop)
            body = self._body[start - z.start : end - z.start]
            reached = slice(start - base, min(end - base, weight.shape[2]))
            finished = torch.zeros(len(total), *body.shape)
            if length := max(0, reached.stop - reached.start):
                # Every body voxel is in a window; elsewhere the weight may be 0 and the body's mask decides.
                share = weight[x, y, reached].permute(2, 1, 0).clamp_min(torch.finfo(weight.dtype).tiny)
                share = body[:length] / share
                torch.mul(total[:, x, y, reached].permute(0, 3, 2, 1), share, out=finished[:, :length])
            yield finished


def _masks(
    logits: Float[Tensor, "window class x y z"], kept: Sequence[int], others: Sequence[int]
) -> list[Float[Tensor, "window field x y z"]]:
    every = list(kept) == list(range(logits.shape[1]))
    masks = [(logits if every else logits[:, list(kept)]).float().sigmoid()]
    if others:
        masks.append(logits[:, list(others)].amax(dim=1, keepdim=True).float().sigmoid())
    return masks


def _move_down(blended: Float[Tensor, "... z"], slices: int) -> None:
    """Leave out the lowest slices, and add as many empty ones on top."""
    kept = max(0, blended.shape[-1] - slices)
    if slices:
        blended[..., :kept] = blended[..., blended.shape[-1] - kept :].clone()
        blended[..., kept:] = 0
