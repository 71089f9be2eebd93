"""Convolutions and matrix products on the processor where PyTorch would take a slower library than oneDNN."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def convolve(
    feature: Float[Tensor, "1 input x y z"], weight: Float[Tensor, "output input edge edge edge"]
) -> Float[Tensor, "1 output x_cut y z"]:
    """Convolve; y and z keep their sizes, x loses what the kernel needs as border."""
    border = weight.shape[-1] // 2
    # In float32, PyTorch leaves a batch of one with few channels to a convolution that is ten times slower. Where the
    # weights are more than the map, oneDNN spends its time on ordering them.
    if _is_single(feature) and feature.numel() > weight.numel():
        return torch.mkldnn_convolution(feature, weight, None, (0, border, border), (1, 1, 1), (1, 1, 1), 1)
    convolved = functional.conv3d(feature, weight, padding=(0, border, border))
    return convolved.contiguous(memory_format=torch.channels_last_3d)


def linear(
    tokens: Float[Tensor, "token input"], weight: Float[Tensor, "output input"], bias: Float[Tensor, "output"] | None
) -> Float[Tensor, "token output"]:
    """Multiply by the transposed weight and add the bias, as a convolution over one voxel.

    PyTorch gives float32 products to MKL, which leaves half of a processor idle that is not Intel's.
    """
    if not _is_single(tokens):
        return functional.linear(tokens, weight, bias)
    as_map = tokens.contiguous().view(1, len(tokens), 1, -1).permute(0, 3, 1, 2)
    product = torch.mkldnn_convolution(as_map, weight[:, :, None, None], bias, (0, 0), (1, 1), (1, 1), 1)
    return product.permute(0, 2, 3, 1).reshape(len(tokens), -1)


def double_grid(
    feature: Float[Tensor, "1 input x y z"],
    weight: Float[Tensor, "input output 2 2 2"],
    into: Float[Tensor, "1 output x_2 y_2 z_2"],
) -> None:
    """Convolve transposed, with stride 2: each voxel becomes eight, by a matrix product."""
    outputs, (x, y, z) = weight.shape[1], feature.shape[2:]
    eightfold = convolve(feature, weight.permute(2, 3, 4, 1, 0).reshape(8 * outputs, -1, 1, 1, 1))
    parts = eightfold.permute(0, 2, 3, 4, 1).view(x, y, z, 2, 2, 2, outputs)
    target = into.permute(0, 2, 3, 4, 1).view(x, 2, y, 2, z, 2, outputs)
    target.copy_(parts.permute(0, 3, 1, 4, 2, 5, 6))


def _is_single(tensor: Tensor) -> bool:
    """Say whether the product is one of float32 numbers, and oneDNN there to compute it."""
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_there and tensor.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
