"""The 3D shifted-window transformer that encodes in Swin UNETR (Liu et al. 2021, Hatamizadeh et al. 2022).

Parameter names and arithmetic are those of ``monai.networks.nets.SwinUNETR`` 1.6, so that its weights load unchanged.
Maps are channel-last here: ``(batch, x, y, z, channel)``.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.model.kernels import use_inference

Size = tuple[int, int, int]
WindowKind = tuple[tuple[slice, slice, slice], Float[Tensor, "token token"] | None]

WINDOW = 7
"""Voxels along a window's edge, where the map has that many."""

TOKENS_AT_A_TIME = 8192
"""How many tokens the feed-forward layer takes at once where no gradient is asked for."""

MASKED = -100.0
"""Added to the logits of tokens that only the cyclic shift made neighbors; the published weights saw this value."""

MERGING_ORDER = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
"""In which order the published weights expect the eight voxels that merge into one."""


def relative_position_index() -> Int[Tensor, "token token"]:
    """Row of the bias table for each pair of tokens of a whole window."""
    axis = torch.arange(WINDOW)
    coordinates = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flatten(1)
    relative = coordinates[:, :, None] - coordinates[:, None, :] + WINDOW - 1
    span = 2 * WINDOW - 1
    return (relative[0] * span + relative[1]) * span + relative[2]


def window_kinds(window: Size, shift: Size, device: torch.device) -> Iterator[WindowKind]:
    """Yield which windows of the grid share a mask, and the mask that is added to their logits.

    The cyclic shift joins opposite borders in the last window along each shifted axis, and nowhere else. So at most
    eight kinds of window differ, and no mask of the size of all windows is needed.
    """
    inner, last = (slice(None, -1), False), (slice(-1, None), True)
    choices = [(inner, last) if step else ((slice(None), False),) for step in shift]
    for (along_x, x_joined), (along_y, y_joined), (along_z, z_joined) in itertools.product(*choices):
        place = (along_x, along_y, along_z)
        joined = (x_joined, y_joined, z_joined)
        yield place, _mask(window, shift, joined, device) if any(joined) else None


def _mask(
    window: Size, shift: Size, joined: tuple[bool, bool, bool], device: torch.device
) -> Float[Tensor, "token token"]:
    """Separate what the shift brought from the opposite border, along each axis where it ``joined`` the two."""
    x, y, z = (step if is_joined else 0 for step, is_joined in zip(shift, joined, strict=True))
    region = border_region(window, (x, y, z), device).flatten()
    return MASKED * (region[:, None] != region[None, :])


def border_region(size: Size, shift: Size, device: torch.device) -> Int[Tensor, "x y z"]:
    """Number the parts of a map that was rolled back by ``shift``, by what came from which opposite border."""
    wrapped = (torch.arange(extent, device=device) >= extent - step for extent, step in zip(size, shift, strict=True))
    x, y, z = torch.meshgrid(*wrapped, indexing="ij")
    return 4 * x + 2 * y + z


def fill_up(
    feature: Shaped[Tensor, "batch x y z channel"], window: Size, value: int = 0
) -> Shaped[Tensor, "batch x_up y_up z_up channel"]:
    """Fill the map up to whole windows."""
    x, y, z = (-extent % length for extent, length in zip(feature.shape[1:4], window, strict=True))
    return functional.pad(feature, (0, 0, 0, z, 0, y, 0, x), value=value)


def roll(feature: Shaped[Tensor, "batch x y z channel"], shift: Size) -> Shaped[Tensor, "batch x y z channel"]:
    """Roll the map back by ``shift`` voxels."""
    return feature.roll((-shift[0], -shift[1], -shift[2]), dims=(1, 2, 3)) if any(shift) else feature


def partition(
    feature: Float[Tensor, "batch x y z channel"], window: Size
) -> Float[Tensor, "batch a b c token channel"]:
    """Cut a map, whose sizes are multiples of the window's, into windows of flattened tokens."""
    batch, *size, channels = feature.shape
    a, b, c = (extent // length for extent, length in zip(size, window, strict=True))
    cut = feature.reshape(batch, a, window[0], b, window[1], c, window[2], channels)
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, a, b, c, -1, channels)


def join(windows: Float[Tensor, "batch a b c token channel"], window: Size) -> Float[Tensor, "batch x y z channel"]:
    """Undo ``partition``."""
    batch, a, b, c, _, channels = windows.shape
    cut = windows.reshape(batch, a, b, c, *window, channels).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return cut.reshape(batch, a * window[0], b * window[1], c * window[2], channels)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside each window, with a learned bias for each relative position."""

    def __init__(self, channels: int, heads: int) -> None:
        """Build for maps of ``channels`` channels, split into ``heads``."""
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 3, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index())
        self.relative_position_index: Tensor
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(
        self, feature: Float[Tensor, "batch x y z channel"], window: Size, shift: Size
    ) -> Float[Tensor, "batch x y z channel"]:
        """Return what each token reads from its window.

        Args:
            feature: the map; windows that reach beyond it are filled up with zeros.
            window: voxels of a window along each axis.
            shift: voxels by which the map is rolled back before it is cut.
        """
        if use_inference(feature):
            return self._attend_by_kernel(feature, window, shift)
        projected: Tensor = self.proj(self._attend(feature, window, shift))
        return projected

    def _bias(self, tokens: int) -> Float[Tensor, "head token token"]:
        # A clamped window takes the first tokens' rows, although their places in a whole window differ: the published
        # weights were trained so.
        index = self.relative_position_index[:tokens, :tokens].flatten()
        return self.relative_position_bias_table[index].view(tokens, tokens, -1).permute(2, 0, 1)

    def _attend(
        self, feature: Float[Tensor, "batch x y z channel"], window: Size, shift: Size
    ) -> Float[Tensor, "batch x y z channel"]:
        windows = partition(self.qkv(roll(fill_up(feature, window), shift)), window)
        tokens, channels = windows.shape[-2], feature.shape[-1]
        bias = self._bias(tokens)
        read = torch.empty_like(windows[..., :channels])
        for place, mask in window_kinds(window, shift, windows.device):
            part = windows[:, *place]
            query, key, value = part.reshape(-1, tokens, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
            # Expanded to every window: the fused attention takes no bias of three dimensions.
            additive = (bias if mask is None else bias + mask).to(query.dtype).expand(len(query), -1, -1, -1)
            attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=additive)
            read[:, *place] = attended.transpose(1, 2).reshape(*part.shape[:-1], channels)
        x, y, z = feature.shape[1:4]
        backwards: Size = (-shift[0], -shift[1], -shift[2])
        return roll(join(read, window), backwards)[:, :x, :y, :z]

    def _attend_by_kernel(
        self, feature: Float[Tensor, "batch x y z channel"], window: Size, shift: Size
    ) -> Float[Tensor, "batch x y z channel"]:
        from dsmseg.model.kernels.products import linear
        from dsmseg.model.kernels.window_attention import window_attention

        size = feature.shape[1:4]
        place = torch.arange(math.prod(size)).view(1, *size, 1)
        place = roll(fill_up(place, window, value=-1), shift)
        x, y, z = place.shape[1:4]
        region = border_region((x, y, z), shift, place.device)[None, ..., None]
        place, region = (partition(layout, window).flatten(0, 3).squeeze(-1).contiguous() for layout in (place, region))
        qkv = linear(feature.flatten(0, 3), self.qkv.weight, self.qkv.bias).view(*feature.shape[:4], -1)
        bias = self._bias(math.prod(window))
        read = window_attention(qkv.float(), self.qkv.bias.float(), bias.float(), place, region, MASKED)
        read = read.to(qkv.dtype)
        return linear(read.flatten(0, 3), self.proj.weight, self.proj.bias).view_as(feature)


class FeedForward(nn.Module):
    """Two linear layers with four times the channels in between."""

    def __init__(self, channels: int) -> None:
        """Build for maps of ``channels`` channels."""
        super().__init__()
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.linear2 = nn.Linear(4 * channels, channels)

    def forward(self, feature: Float[Tensor, "batch ... channel"]) -> Float[Tensor, "batch ... channel"]:
        """Return the transformed tokens."""
        if not use_inference(feature):
            transformed: Tensor = self.linear2(functional.gelu(self.linear1(feature)))
            return transformed
        # Part by part, so that the wide layer between stays in the cache.
        from dsmseg.model.kernels.products import linear

        first, second = self.linear1, self.linear2
        tokens = torch.split(feature.flatten(0, -2), TOKENS_AT_A_TIME)
        parts = (linear(part, first.weight, first.bias) for part in tokens)
        mixed = [linear(functional.gelu(part), second.weight, second.bias) for part in parts]
        return torch.cat(mixed).view_as(feature)


class SwinTransformerBlock(nn.Module):
    """Window attention and feed-forward, pre-norm; every second block shifts its windows by half their size."""

    def __init__(self, channels: int, heads: int, *, shifted: bool) -> None:
        """Build for maps of ``channels`` channels."""
        super().__init__()
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels)

    def forward(self, feature: Float[Tensor, "batch x y z channel"]) -> Float[Tensor, "batch x y z channel"]:
        """Return the map after one block."""
        feature = feature + self._attend(self.norm1(feature))
        result: Tensor = feature + self.mlp(self.norm2(feature))
        return result

    def _attend(self, feature: Float[Tensor, "batch x y z channel"]) -> Float[Tensor, "batch x y z channel"]:
        x, y, z = feature.shape[1:4]
        window: Size = (min(x, WINDOW), min(y, WINDOW), min(z, WINDOW))
        half = WINDOW // 2 if self.shifted else 0
        # An axis that one window covers has nothing to shift to.
        shift: Size = (half * (x > WINDOW), half * (y > WINDOW), half * (z > WINDOW))
        attended: Tensor = self.attn(feature, window, shift)
        return attended


class PatchMerging(nn.Module):
    """Halve the grid: eight voxels become one of twice the channels."""

    def __init__(self, channels: int) -> None:
        """Build for maps of ``channels`` channels."""
        super().__init__()
        self.reduction = nn.Linear(8 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(8 * channels)

    def forward(self, feature: Float[Tensor, "batch x y z channel"]) -> Float[Tensor, "batch x_2 y_2 z_2 channel_2"]:
        """Return the merged map; every size of ``feature`` is even."""
        corners = [feature[:, i::2, j::2, k::2] for i, j, k in MERGING_ORDER]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, dim=-1)))
        return merged


class SwinStage(nn.Module):
    """A plain and a shifted block, then patch merging."""

    def __init__(self, channels: int, heads: int) -> None:
        """Build for maps of ``channels`` channels."""
        super().__init__()
        self.blocks = nn.ModuleList(SwinTransformerBlock(channels, heads, shifted=shifted) for shifted in (False, True))
        self.downsample = PatchMerging(channels)

    def forward(self, feature: Float[Tensor, "batch x y z channel"]) -> Float[Tensor, "batch x_2 y_2 z_2 channel_2"]:
        """Return the map of the next stage."""
        for block in self.blocks:
            feature = block(feature)
        merged: Tensor = self.downsample(feature)
        return merged


class PatchEmbedding(nn.Module):
    """The linear embedding of each patch of 2 x 2 x 2 voxels."""

    def __init__(self, input_channels: int, channels: int) -> None:
        """Build for images of ``input_channels`` channels."""
        super().__init__()
        self.proj = nn.Conv3d(input_channels, channels, kernel_size=2, stride=2)

    def forward(self, image: Float[Tensor, "batch input x y z"]) -> Float[Tensor, "batch x_2 y_2 z_2 channel"]:
        """Return one token a patch."""
        tokens: Tensor = self.proj(image)
        return tokens.permute(0, 2, 3, 4, 1)


class SwinTransformer(nn.Module):
    """Four stages of two blocks; gives the maps at strides 2, 4, 8, 16 and 32."""

    def __init__(self, input_channels: int, channels: int, heads: Sequence[int] = (3, 6, 12, 24)) -> None:
        """Build with ``channels`` at stride 2 and ``heads`` of each stage."""
        super().__init__()
        self.patch_embed = PatchEmbedding(input_channels, channels)
        stages = (SwinStage(channels * 2**depth, count) for depth, count in enumerate(heads))
        self.layers1, self.layers2, self.layers3, self.layers4 = (nn.ModuleList([stage]) for stage in stages)

    def forward(self, image: Float[Tensor, "batch input x y z"]) -> list[Float[Tensor, "batch _ _ _ _"]]:
        """Return the five maps, each voxel normalized over its channels, in the memory format channels_last_3d.

        Args:
            image: every spatial size is a multiple of 32.
        """
        feature: Tensor = self.patch_embed(image)
        maps = [feature]
        for layers in (self.layers1, self.layers2, self.layers3, self.layers4):
            feature = layers[0](feature)
            maps.append(feature)
        return [functional.layer_norm(feature, feature.shape[-1:]).permute(0, 4, 1, 2, 3) for feature in maps]
