"""What every backbone gives to the query decoders (§ 4.1)."""

from typing import NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor


class PixelFeatures(NamedTuple):
    """The vision decoder's maps of one image.

    levels: F_1..F_4, deepest first, at strides 32, 16, 8, 4; each ``(batch, C_i, x_i, y_i, z_i)``.
    half: the decoder's map at stride 2, ``(batch, C_2, x_2, y_2, z_2)``.
    embedding: the high-resolution embedding F^_4 of § 4.1 (not F^_i of Eq. 17), at stride 1, ``(batch, C, x, y, z)``.
    """

    levels: tuple[Float[Tensor, "batch channel_i x_i y_i z_i"], ...]
    half: Float[Tensor, "batch channel_2 x_2 y_2 z_2"]
    embedding: Float[Tensor, "batch channel x y z"]


class Backbone(Protocol):
    """A vision encoder and decoder, "a CNN or a Transformer" (§ 4.1)."""

    level_channels: tuple[int, ...]
    half_channels: int
    embedding_channels: int

    def __call__(self, image: Float[Tensor, "batch input x y z"], /) -> PixelFeatures:
        """Give the maps of ``image``."""
        ...
