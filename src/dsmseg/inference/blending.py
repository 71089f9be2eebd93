"""The sliding window: the network's answers for overlapping windows, blended into one field for each class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a scan is cut and seen. ``organs`` and ``tumors`` are the network's output channels to keep."""

    size: Size
    overlap: float
    hu_windows: Sequence[tuple[float, float]]
    organs: Sequence[int]
    tumors: Sequence[int]


@dataclass(frozen=True, slots=True)
class Scores:
    """Fields on the working grid, float32 on the CPU, 0 outside of the body. ``anomaly`` is scaled to 0..1."""

    organs: Float[Tensor, "organ x y z"]
    tumors: Float[Tensor, "tumor x y z"]
    anomaly: Float[Tensor, "x y z"]
    windows: int


def sliding_window(
    network: nn.Module,
    hu: Float[NDArray[np.float32], "x y z"],
    body: Bool[NDArray[np.bool_], "x y z"],
    tiling: Tiling,
    runtime: Runtime,
    *,
    progress: Progress | None = None,
) -> Scores:
    """Run ``network`` over all windows that hold body and blend its soft masks, weighing each by a Gaussian.

    Args:
        network: gives a DSMOutput for (1, channel, x, y, z), on the runtime's device.
        hu: the scan at the working spacing; what is smaller than a window repeats its last slices, as thin scans
            did in training. Air there would look like the end of the body.
        body: only inside of it do fields differ from 0.
        tiling: windows, and classes to keep.
        runtime: device and precision.
        progress: is called with (windows done, windows in all).
    """
    padding = padding_to(hu.shape, tiling.size)
    padded_hu = torch.from_numpy(np.pad(hu, padding, mode="edge"))
    windows = place_windows(np.pad(body, padding), tiling.size, tiling.overlap)
    total, weight = _blend(network, padded_hu, windows, tiling, runtime, progress)
    # Every body voxel is in a window; elsewhere the weight may be 0 and the mask below decides.
    total /= weight.clamp_min(torch.finfo(weight.dtype).tiny)
    inner = [slice(before, before + length) for (before, _), length in zip(padding, hu.shape, strict=True)]
    fields = total[:, inner[0], inner[1], inner[2]]
    inside = torch.from_numpy(body)
    fields *= inside
    split = len(tiling.organs)
    return Scores(
        organs=fields[:split],
        tumors=fields[split:-1],
        anomaly=_scale_inside(fields[-1], inside),
        windows=len(windows),
    )


def _blend(
    network: nn.Module,
    hu: Float[Tensor, "x y z"],
    windows: Sequence[Slices],
    tiling: Tiling,
    runtime: Runtime,
    progress: Progress | None,
) -> tuple[Float[Tensor, "field x y z"], Float[Tensor, "x y z"]]:
    """Sum up weighted fields (organs, tumors, anomaly) and weights."""
    window_weight = gaussian_weights(tiling.size)
    total = torch.zeros((len(tiling.organs) + len(tiling.tumors) + 1, *hu.shape))
    weight = torch.zeros(hu.shape)
    for done, window in enumerate(windows, start=1):
        image = channels(hu[window], tiling.hu_windows)
        fields = _fields_of_window(network, image, tiling, runtime).cpu()
        total[(slice(None), *window)] += fields * window_weight
        weight[window] += window_weight
        if progress is not None:
            progress(done, len(windows))
    return total, weight


@torch.inference_mode()
def _fields_of_window(
    network: nn.Module, image: Float[Tensor, "1 channel x y z"], tiling: Tiling, runtime: Runtime
) -> Float[Tensor, "field x y z"]:
    image = image.to(runtime.device, memory_format=torch.channels_last_3d)
    with torch.autocast(runtime.device.type, runtime.dtype, enabled=runtime.dtype != torch.float32):
        output: DSMOutput = network(image)
    fields = [output.organ_logits[0, list(tiling.organs)].float().sigmoid()]
    if tiling.tumors:
        if output.tumor_logits is None:
            raise ValueError("the card names tumors, but its network gives none")
        fields.append(output.tumor_logits[0, list(tiling.tumors)].float().sigmoid())
    anomaly = output.anomaly[:, None].float()
    fields.append(functional.interpolate(anomaly, tiling.size, mode="trilinear", align_corners=False)[0])
    return torch.cat(fields)


def _scale_inside(field: Float[Tensor, "x y z"], inside: Bool[Tensor, "x y z"]) -> Float[Tensor, "x y z"]:
    """Scale the body's lowest value to 0 and its highest to 1; a constant field, or no body, gives 0."""
    values = field[inside]
    if values.numel() == 0 or values.max() == values.min():
        return torch.zeros_like(field)
    low, high = values.min(), values.max()
    return torch.where(inside, (field - low) / (high - low), 0.0)
