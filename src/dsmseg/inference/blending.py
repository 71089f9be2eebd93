"""The sliding window: the network's answers for overlapping windows, blended into one field for each class.

Windows go from the feet to the head. As soon as no further window reaches a slice, it is finished and handed on, so
that only as many slices of all classes are held as a window is high.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.inference import kernels
from dsmseg.inference.boxes import EVERYWHERE, Boxes, nowhere, shifted, union
from dsmseg.inference.runtime import Runtime
from dsmseg.inference.soft_masks import USUAL_THRESHOLD, SoftMasks, stretch
from dsmseg.inference.windows import Size, Slices, channels, gaussian_weights, padding_to, place_windows
from dsmseg.model import DSMOutput, answered_in_hosts
from dsmseg.model.kernels import in_threads

Progress = Callable[[int, int], None]

SLAB_SLICES = 32

_SURE = 1e-6  # a probability so far from 0 and 1 is as good as these, and has a finite logit
_ROUNDING = 1e-4  # of logits and sigmoids in float32, with room


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
        unseen: of the tumors, those that no label named, each with the output channels of its host organs.
        tumor_thresholds, other_tumor_thresholds: a tumor may be where it is more probable; none for 0.5 each.
    """

    size: Size
    overlap: float
    hu_windows: Sequence[tuple[float, float]]
    organs: Sequence[int]
    tumors: Sequence[int] = ()
    other_organs: Sequence[int] = ()
    other_tumors: Sequence[int] = ()
    tumor_thresholds: Sequence[float] = ()
    other_tumor_thresholds: Sequence[float] = ()
    unseen: Mapping[int, Sequence[int]] | None = None

    @property
    def organ_fields(self) -> int:
        """Fields of organs, the one of all others included."""
        return len(self.organs) + bool(self.other_organs)

    @property
    def fields(self) -> int:
        """Fields of organs, of tumors and of the anomaly."""
        return self.organ_fields + len(self.tumors) + bool(self.other_tumors) + 1

    @property
    def thresholds(self) -> NDArray[np.float32]:
        """Of each field. That of all other tumors holds relative probabilities, so it has 0.5 like organs."""
        thresholds = np.full(self.fields, USUAL_THRESHOLD, dtype=np.float32)
        if self.tumor_thresholds:
            thresholds[self.organ_fields : self.organ_fields + len(self.tumors)] = self.tumor_thresholds
        return thresholds


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


@dataclass(frozen=True, slots=True)
class _Masks:
    """Logits of some windows in main memory, and which channels of them are fields."""

    logits: NDArray[np.float32]
    channels: NDArray[np.int64]

    @classmethod
    def of(cls, logits: Float[Tensor, "window channel x y z"], channels: Sequence[int]) -> "_Masks":
        """Take some channels. In main memory, all stay where they are: 45 of a window of 96^3 take 160 MB."""
        if logits.device.type != "cpu" and len(channels) < logits.shape[1]:
            logits, channels = logits[:, list(channels)], range(len(channels))
        return cls(logits.float().cpu().contiguous().numpy(), np.asarray(channels, dtype=np.int64))

    def add(
        self,
        window: int,
        fields: NDArray[np.float32],
        boxes: Boxes,
        corner: Sequence[int],
        weights: NDArray[np.float32],
        bars: NDArray[np.float32],
    ) -> None:
        """Add the soft masks of a window to ``fields`` at a corner (x, y, z), see `kernels.add_sigmoid`."""
        logits, channels = self.logits[window], self.channels

        def add(first: int, last: int) -> None:
            kernels.add_sigmoid(first, last, logits, channels, weights, bars, fields, boxes, *corner)

        in_threads(add, len(channels))


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
        self._thresholds = tiling.thresholds
        self._bars = _bars(self._thresholds)
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
        reach: list[Boxes] = []  # of the windows of each height
        for start, layer in groupby(self.windows, key=lambda one: one[2].start):
            yield from self._finished(total, weight, reach, base, start)
            _move_down(total, start - base)
            _move_down(weight, start - base)
            base = start
            reach.append(nowhere(len(total)))
            for count in self._add_layer(list(layer), total, weight, reach[-1]):
                done += count
                if self._progress is not None:
                    self._progress(done, len(self.windows))
            reach[-1] = shifted(reach[-1], (0, 0, base - 1))  # their lowest slice is slice 1
        yield from self._finished(total, weight, reach, base, end)

    def _add_layer(self, layer: Sequence[Slices], total: Tensor, weight: Tensor, boxes: Boxes) -> Iterator[int]:
        """Add windows of one height, and give how many were added each time."""
        window_weight = gaussian_weights(self._tiling.size)
        for first in range(0, len(layer), self._runtime.windows_at_once):
            batch = layer[first : first + self._runtime.windows_at_once]
            self._add(batch, window_weight, total, weight, boxes)
            yield len(batch)

    def _add(self, batch: Sequence[Slices], window_weight: Tensor, total: Tensor, weight: Tensor, boxes: Boxes) -> None:
        """Run the network on some windows, and add what it says. Nothing of it is held when the next ones are seen."""
        image = torch.cat([channels(self._hu[window], self._tiling.hu_windows) for window in batch])
        masks, anomaly = self._look(image)
        sums, weights = total.numpy(), window_weight.numpy()
        for number, (x, y, _) in enumerate(batch):
            field = 0
            for mask in masks:
                fields = slice(field, field := field + len(mask.channels))
                mask.add(number, sums[fields], boxes[fields], (x.start, y.start, 1), weights, self._bars[fields])
            total[-1, x, y, 1:].addcmul_(anomaly[number], window_weight)
            weight[x, y, 1:] += window_weight

    @torch.inference_mode()
    def _look(self, image: Float[Tensor, "window channel x y z"]) -> tuple[list[_Masks], Float[Tensor, "window x y z"]]:
        """Give the logits of all masks in the order of their fields, and the anomaly."""
        runtime, tiling = self._runtime, self._tiling
        image = image.to(runtime.device, memory_format=torch.channels_last_3d)
        with torch.autocast(runtime.device.type, runtime.dtype, enabled=runtime.dtype != torch.float32):
            output: DSMOutput = self._network(image)
        if tiling.unseen:
            output = answered_in_hosts(output, tiling.unseen)
        masks = _masks(output.organ_logits, tiling.organs, tiling.other_organs)
        if tiling.tumors:
            if output.tumor_logits is None:
                raise ValueError("the card names tumors, but its network gives none")
            masks += _masks(output.tumor_logits, tiling.tumors, tiling.other_tumors, tiling.other_tumor_thresholds)
        anomaly = 1 + output.anomaly[:, None].float()
        anomaly = functional.interpolate(anomaly, tiling.size, mode="trilinear", align_corners=False)
        return masks, anomaly[:, 0].cpu()

    def look(self, count: int) -> None:
        """Run the network on a few windows, evenly spread over the scan, and leave what it says."""
        chosen = np.unique(np.linspace(0, len(self.windows) - 1, count).round().astype(int)) if self.windows else ()
        for number in chosen:
            self._look(channels(self._hu[self.windows[number]], self._tiling.hu_windows))

    def _finished(self, total: Tensor, weight: Tensor, reach: Sequence[Boxes], base: int, stop: int) -> Iterator[Slab]:
        """Give slices ``base`` to ``stop``, of which slice ``base`` is the second one held."""
        x, y, z = self._inner
        first, last = max(base, z.start), min(stop, z.stop)
        within = union([nowhere(len(total)), *reach])
        within[-1] = EVERYWHERE  # the anomaly is no mask
        # What no window has reached is 0; the last slice that one has may be needed beside it.
        reached = min(last, base + weight.shape[2] - 1)
        for new in [*range(first, reached, SLAB_SLICES), *range(max(first, reached), last, SLAB_SLICES)]:
            end = min(new + SLAB_SLICES, reached if new < reached else last)
            start = max(z.start, new - 1)
            held = slice(start - base + 1, min(end, reached) - base + 1)
            sums, weights = total[:, x, y, held], weight[x, y, held]
            if (lacking := end - start - weights.shape[2]) > 0:
                sums, weights = functional.pad(sums, (0, lacking)), functional.pad(weights, (0, lacking))
            inside = self._body[x, y, start:end]
            boxes = _clipped(within, (x.start, y.start, start), inside.shape)
            masks = SoftMasks.blended(sums, weights, inside, self._thresholds, boxes)
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
    logits: Float[Tensor, "window class x y z"],
    kept: Sequence[int],
    others: Sequence[int],
    other_thresholds: Sequence[float] = (),
) -> list[_Masks]:
    """Take the channels to keep and the highest of all others, relative to their thresholds where these differ."""
    masks = [_Masks.of(logits, kept)]
    if others:
        other = logits[:, list(others)]
        if any(one != USUAL_THRESHOLD for one in other_thresholds):
            factors = torch.from_numpy(stretch(np.asarray(other_thresholds, dtype=np.float32)))
            lacking = torch.sigmoid(-other.float()) * factors.to(other.device).view(-1, 1, 1, 1)
            other = torch.logit(1 - lacking, eps=_SURE)
        masks.append(_Masks.of(other.amax(dim=1, keepdim=True), [0]))
    return masks


def _bars(thresholds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the logits of thresholds, those other than 0.5 a trifle lower: a box may hold more than it must."""
    exact = thresholds.astype(np.float64)
    lower = np.where(exact == USUAL_THRESHOLD, 0.0, _ROUNDING)
    bars: NDArray[np.float32] = (np.log(exact / (1 - exact)) - lower).astype(np.float32)
    return bars


def _clipped(boxes: Boxes, origin: Sequence[int], shape: Sequence[int]) -> Boxes:
    """Count from ``origin``, and stay within ``shape``."""
    parts = [
        (boxes[:, 2 * axis : 2 * axis + 2] - start).clip(0, length)
        for axis, (start, length) in enumerate(zip(origin, shape, strict=True))
    ]
    return np.concatenate(parts, axis=1)


def _move_down(blended: Float[Tensor, "... z"], slices: int) -> None:
    """Leave out the lowest slices, and add as many empty ones on top."""
    if slices:
        rows = blended.reshape(-1, blended.shape[-1]).numpy()
        in_threads(lambda first, last: kernels.move_down(first, last, rows, slices), len(rows))
