"""Memory: what a scan needs, told before it is taken; and where it runs out all the same, the caller's to mend."""

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from torch import Tensor

from dsmseg import resources
from dsmseg.checkpoint import Card
from dsmseg.errors import InputError
from dsmseg.inference.blending import SLAB_SLICES
from dsmseg.volume import Grid, resampled_grid

# Measured: Python and the libraries; what a network takes for a window, by itself and for each of its voxels.
_LIBRARIES = 400 << 20
_WINDOW, _A_WINDOW_VOXEL = 100 << 20, 1000
_FLOAT = 4
# Bytes a voxel of the scan with its layers, while lesions are told apart in a box of the scan's size, or it is written.
_WITH_LESIONS, _WITHOUT_LESIONS = 18, 11
_FULL_FIELDS = 8  # Boxes of classes overlap, but not each of them fills a slab.

# torch raises RuntimeError: on the CPU it has no kind of its own, and on a GPU there are several.
_MARKS = ("defaultcpuallocator", "out of memory", "bad_alloc", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether ``error`` means that memory ran out, be it the machine's or the GPU's."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(mark in text for mark in _MARKS)


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that segmenting a scan takes at most, for weights of ``card`` with as many ``parameters``.

    ``fields`` are those of organs, of tumors and of the anomaly that are blended.
    """

    card: Card
    parameters: int
    fields: int

    @classmethod
    def of_weights(cls, card: Card, parameters: Iterable[Tensor]) -> "Need":
        """Take a card, and the tensors that a network has: all its classes are blended."""
        fields = len(card.organs) + len(card.tumors) + 1
        return cls(card, sum(one.numel() for one in parameters), fields)

    def of(self, grid: Grid) -> int:
        """Give all that is taken at a time for a scan of ``grid``, in its own order of axes."""
        own = grid.oriented()
        network = _LIBRARIES + 2 * _FLOAT * self.parameters
        afterwards = (_WITH_LESIONS if self.card.tumors else _WITHOUT_LESIONS) * prod(own.shape)
        return network + max(self._prepare(own), self._window(own), afterwards)

    def slices_that_fit(self, grid: Grid, memory: int) -> int:
        """Give how many slices, along the head's axis, of a scan can be segmented within ``memory`` bytes."""
        own = grid.oriented()
        low, high = 0, own.shape[2]
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.of(replace(own, shape=(*own.shape[:2], middle))) <= memory
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def _prepare(self, own: Grid) -> int:
        """While a scan is resampled: itself, and the array before and after each axis."""
        working = resampled_grid(own, self.card.spacing_mm).shape
        shape, sizes = list(own.shape), list[int]()
        for axis in sorted(range(3), key=lambda axis: working[axis] / own.shape[axis]):
            before, shape[axis] = prod(shape) if sizes else 0, working[axis]
            sizes.append(before + prod(shape))
        return _FLOAT * (prod(own.shape) + max(sizes))

    def _window(self, own: Grid) -> int:
        """While the network runs: the scan and its layers, the working grid, fields as high as a window, a window."""
        working = resampled_grid(own, self.card.spacing_mm).shape
        x, y, z = (max(length, width) for length, width in zip(working, self.card.window, strict=True))
        held = _FLOAT * x * y * (self.fields * (self.card.window[2] + 1) + _FULL_FIELDS * (SLAB_SLICES + 1))
        window = _WINDOW + prod(self.card.window) * (_A_WINDOW_VOXEL + 2 * _FLOAT * self.fields)
        return 8 * prod(own.shape) + (10 + self.fields // 8) * x * y * z + held + window


def refuse_too_large(grid: Grid, need: Need, where: Path | None) -> None:
    """Refuse a scan that needs more memory than this process can have.

    Raises:
        InputError: it does. The text says how many of its slices would fit.
    """
    needed, left = need.of(grid), resources.available_memory()
    if left is None or needed <= left:
        return
    slices, fitting = grid.oriented().shape[2], need.slices_that_fit(grid, left)
    smaller = f"Give {fitting} of its {slices} axial slices at a time, or close" if fitting else "Close"
    raise InputError(
        f"needs {needed / 1e9:.1f} GB of memory, and {left / 1e9:.1f} GB can be had here",
        where=where,
        mend=f"{smaller} other programs, take weights with a coarser spacing, or use a machine with more memory.",
    )


@contextmanager
def telling_memory() -> Iterator[None]:
    """Turn memory that runs out inside of the block into one line.

    Raises:
        InputError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # They hold what filled the memory, and other scans may follow.
        raise InputError(
            "memory ran out for this scan",
            mend="Close other programs, give a smaller part of the scan, or use a machine with more memory.",
        ) from error
