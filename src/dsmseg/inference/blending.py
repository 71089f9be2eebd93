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
from dsmseg.inference.soft_masks import SoftMasks
from dsmseg.inference.windows import Size, Slices, channels, gaussian_weights, padding_to, place_windows
from dsmseg.model import DSMOutput

Progress = Callable[[int, int], None]

SLAB_SLICES = 32


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

    Masks are 0..1, and 0 outside of the body. ``anomaly`` is 1 + A of Eq. 14: 1 less the response of the organ query
    that fits best.
    """

    start: int
    stop: int
    new: int
    organs: SoftMasks
    tumors: SoftMasks
    anomaly: SoftMasks


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
            network: gives a DSMOutput for (window, channel, x, y, z), on the runtime's device; its logits are used up.
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
        padded_body = np.pad(body, padding) if np.any(padding) else body
        self._body = torch.from_numpy(padded_body)
        self.windows = sorted(place_windows(padded_body, tiling.size, tiling.overlap), key=lambda one: one[2].start)
        self._inner = [slice(before, before + length) for (before, _), length in zip(padding, hu.shape, strict=True)]

    def __iter__(self) -> Iterator[Slab]:
        """Give all slices of the working grid, from the feet to the head, a few at a time, each with the one before.

        A slab is valid until the next one is asked for.
        """
        # Below the slices that windows of one height reach, the last finished slice is kept.
        height = 1 + self._tiling.size[2]
        total = torch.zeros(self._tiling.fields, *self._hu.shape[:2], height)
        weight = torch.zeros(*self._hu.shape[:2], height)
        base, end, done = 0, self._hu.shape[2], 0
        for start, layer in groupby(self.windows, key=lambda one: one[2].start):
            yield from self._finished(total, weight, base, start)
            _move_down(total, start - base)
            _move_down(weight, start - base)
            base = start
            for count in self._add_layer(list(layer), total[..., 1:], weight[..., 1:]):
                done += count
                if self._progress is not None:
                    self._progress(done, len(self.windows))
        yield from self._finished(total, weight, base, end)

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

    def look(self, count: int) -> None:
        """Run the network on a few windows, evenly spread over the scan, and leave what it says."""
        chosen = np.unique(np.linspace(0, len(self.windows) - 1, count).round().astype(int)) if self.windows else ()
        for number in chosen:
            self._fields(channels(self._hu[self.windows[number]], self._tiling.hu_windows))

    def _finished(self, total: Tensor, weight: Tensor, base: int, stop: int) -> Iterator[Slab]:
        """Give slices ``base`` to ``stop``, of which slice ``base`` is the second one held."""
        x, y, z = self._inner
        first, last = max(base, z.start), min(stop, z.stop)
        # What no window has reached is 0; the last slice that one has may be needed beside it.
        reached = min(last, base + weight.shape[2] - 1)
        for new in [*range(first, reached, SLAB_SLICES), *range(max(first, reached), last, SLAB_SLICES)]:
            end = min(new + SLAB_SLICES, reached if new < reached else last)
            start = max(z.start, new - 1)
            held = slice(start - base + 1, min(end, reached) - base + 1)
            sums, weights = total[:, x, y, held], weight[x, y, held]
            if (lacking := end - start - weights.shape[2]) > 0:
                sums, weights = functional.pad(sums, (0, lacking)), functional.pad(weights, (0, lacking))
            masks = SoftMasks.blended(sums, weights, self._body[x, y, start:end])
            organs = self._tiling.organ_fields
            yield Slab(
                start - z.start,
                end - z.start,
                new - z.start,
                masks.part(slice(organs)),
                masks.part(slice(organs, -1)),
                masks.part(slice(-1, None)),
            )


def _masks(
    logits: Float[Tensor, "window class x y z"], kept: Sequence[int], others: Sequence[int]
) -> list[Float[Tensor, "window field x y z"]]:
    masks = []
    if others:
        masks.append(logits[:, list(others)].amax(dim=1, keepdim=True).float().sigmoid_())
    every = list(kept) == list(range(logits.shape[1]))
    # In place: 45 fields of a window of 96^3 take 160 MB, and new memory costs more time than the sigmoid.
    masks.insert(0, (logits if every else logits[:, list(kept)]).float().sigmoid_())
    return masks


def _move_down(blended: Float[Tensor, "... z"], slices: int) -> None:
    """Leave out the lowest slices, and add as many empty ones on top."""
    kept = max(0, blended.shape[-1] - slices)
    if slices:
        rest = blended[..., blended.shape[-1] - kept :]
        blended[..., :kept] = rest.clone() if kept > slices else rest  # only then do the two share memory
        blended[..., kept:] = 0
