"""Soft masks of a few slices, as the sliding window leaves them: weighted sums, divided only where it matters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SoftMasks:
    """One probability a class and voxel, 0..1; 0 where nothing is known.

    Attributes:
        sums: of weighted probabilities.
        shares: what a sum is multiplied by to become a probability.
        halves: what a sum exceeds where that is more than 0.5.
    """

    sums: Float[Tensor, "class x y z"]
    shares: Float[Tensor, "x y z"]
    halves: Float[Tensor, "x y z"]

    @classmethod
    def blended(
        cls, sums: Float[Tensor, "class x y z"], weights: Float[Tensor, "x y z"], inside: Bool[Tensor, "x y z"]
    ) -> "SoftMasks":
        """Take weighted sums and the sums of weights; outside of ``inside`` all is 0."""
        shares = inside / weights.clamp_min(torch.finfo(weights.dtype).tiny)
        return cls(sums, shares, torch.where(inside, weights / 2, torch.inf))

    @classmethod
    def of(cls, probabilities: Float[Tensor, "class x y z"]) -> "SoftMasks":
        """Take probabilities as they are."""
        ones = torch.ones(probabilities.shape[1:])
        return cls(probabilities, ones, ones / 2)

    def __len__(self) -> int:
        """Count the classes."""
        return len(self.sums)

    def part(self, classes: slice) -> "SoftMasks":
        """Give some of the classes."""
        return SoftMasks(self.sums[classes], self.shares, self.halves)

    def over_half(self, number: int) -> Bool[NDArray[np.bool_], "x y z"]:
        """Give where a class is more probable than 0.5."""
        # Twice as fast as torch on slices of a larger array.
        over: NDArray[np.bool_] = np.greater(self.sums[number].numpy(), self.halves.numpy())
        return over

    def backwards(self, number: int, box: Sequence[slice] = (slice(None),) * 3) -> Float[Tensor, "z y x"]:
        """Give the probabilities of a class in a box (x, y, z), as scans lie in memory."""
        x, y, z = box
        return (self.sums[number, x, y, z] * self.shares[x, y, z]).permute(2, 1, 0).contiguous()
