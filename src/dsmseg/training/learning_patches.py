"""One patch to learn from, and a box of one put into another (CutMix), so that bodies are mixed with bodies."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from numpy.random import Generator
from torch import Tensor

_SIDE = (0.3, 0.7)  # of the box, by the patch's: 3 to 34 % of its volume. Our choice


@dataclass(frozen=True, slots=True)
class LearningPatch:
    """One patch to learn from.

    image: in [0, 1]. masks: of all 45 classes. annotated: which are known. merged: indices of pairs that are not told
    apart. name: where it is from. known: voxels of which the annotated classes are known; None where all are.
    """

    image: Float[Tensor, "window x y z"]
    masks: Bool[Tensor, "class x y z"]
    annotated: Bool[Tensor, "class"]
    merged: tuple[tuple[int, int], ...]
    name: str
    known: Bool[Tensor, "x y z"] | None = None


def mix(patch: LearningPatch, other: LearningPatch, random: Generator) -> LearningPatch:
    """Put a box of another patch into one, at its own place there; what both know is known.

    A pair that one of the two does not tell apart is told apart in neither.
    """
    box = []
    for count in patch.image.shape[1:]:
        side = max(1, int(count * random.uniform(*_SIDE)))
        first = int(random.integers(count - side + 1))
        box.append(slice(first, first + side))
    merged = tuple(sorted({*patch.merged, *other.merged}))
    x, y, z = box
    image, masks = patch.image.clone(), _joined(patch, merged).clone()
    image[:, x, y, z] = other.image[:, x, y, z]
    masks[:, x, y, z] = _joined(other, merged)[:, x, y, z]
    annotated = patch.annotated & other.annotated
    masks[~annotated] = False
    known = None
    if patch.known is not None or other.known is not None:
        known = torch.ones(patch.image.shape[1:], dtype=torch.bool) if patch.known is None else patch.known.clone()
        known[x, y, z] = True if other.known is None else other.known[x, y, z]
    name = f"{patch.name} with {other.name}"
    return LearningPatch(image, masks, annotated, merged, name, known)


def _joined(patch: LearningPatch, merged: tuple[tuple[int, int], ...]) -> Bool[Tensor, "class x y z"]:
    """Give the masks, where those of each pair to merge are both their union."""
    masks = patch.masks
    for pair in merged:
        if pair not in patch.merged:
            masks = masks.clone()
            masks[list(pair)] = masks[list(pair)].any(0)
    return masks
