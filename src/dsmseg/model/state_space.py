"""§ 3.1: the selective state space layer, Eq. 3-6.

A sequence of D channels drives D independent states of size N. Step size, input and output maps depend on the sequence
itself (the selection of Mamba); the recurrence is linear in the number of tokens.

``selective_scan`` is Eq. 3-6 in one: as the plain functions that stand before it say, or by a fused kernel.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.model.kernels import use_numba, use_triton


def zero_order_hold(
    step: Float[Tensor, "*batch channel"], decay: Float[Tensor, "channel state"]
) -> tuple[Float[Tensor, "*batch channel state"], Float[Tensor, "*batch channel state"]]:
    """Discretize a diagonal system: Eq. 3 and Eq. 4.

    ``step`` is Δ > 0, ``decay`` the diagonal of A (negative). Gives ``exp(ΔA)`` and the factor of B in Eq. 4,
    ``(ΔA)^-1 (exp(ΔA) - 1) Δ``, which for a diagonal A is ``(exp(ΔA) - 1) / A``.
    """
    exponent = step.unsqueeze(-1) * decay
    return exponent.exp(), torch.expm1(exponent) / decay


def recurrence(
    transition: Float[Tensor, "batch length *state"],
    drive: Float[Tensor, "batch length *state"],
    chunk: int | None = None,
) -> Float[Tensor, "batch length *state"]:
    """Give all h_t of ``h_t = transition_t * h_(t-1) + drive_t``, with h_(-1) = 0 (Eq. 5).

    The sequence is cut into chunks of ``chunk`` tokens that advance side by side. By default these are sqrt(length)
    tokens: the number of dependent operations is then 2 sqrt(length), not length.
    """
    size = max(1, math.isqrt(drive.shape[1])) if chunk is None else chunk
    states: Tensor = _Recurrence.apply(transition, drive, size)  # type: ignore[no-untyped-call]
    return states


def read_out(
    states: Float[Tensor, "batch length channel state"], output_map: Float[Tensor, "batch length state"]
) -> Float[Tensor, "batch length channel"]:
    """Give ``y_t = C_t h_t`` (Eq. 6); all channels share C_t."""
    return torch.einsum("blcs,bls->blc", states, output_map)


def selective_scan(
    sequence: Float[Tensor, "batch length channel"],
    step: Float[Tensor, "batch length channel"],
    decay: Float[Tensor, "channel state"],
    input_map: Float[Tensor, "batch length state"],
    output_map: Float[Tensor, "batch length state"],
) -> Float[Tensor, "batch length channel"]:
    """Run Eq. 3-6 along a sequence x_t: discretize, h_t = A_t h_(t-1) + B_t x_t, y_t = C_t h_t.

    Args:
        sequence: x, which drives one system a channel.
        step: Δ > 0 of every token and channel.
        decay: the diagonal of A, negative.
        input_map: B of every token, shared by the channels.
        output_map: C of every token, shared by the channels.

    Gives y in the dtype of ``sequence``. Anything shorter than float32 is computed in float32: a product of thousands
    of transitions does not survive bfloat16.
    """
    dtype = torch.promote_types(sequence.dtype, torch.float32)
    x, step, decay, b, c = (tensor.to(dtype) for tensor in (sequence, step, decay, input_map, output_map))
    if use_numba(x, step, decay, b, c):
        from dsmseg.model.kernels import scan_cpu

        y = scan_cpu.selective_scan(x, step, decay, b, c)
    elif use_triton(x, step, decay, b, c):
        from dsmseg.model.kernels import scan_cuda

        y = scan_cuda.selective_scan(x, step, decay, b, c)
    else:
        transition, input_factor = zero_order_hold(step, decay)
        y = read_out(recurrence(transition, input_factor * b.unsqueeze(-2) * x.unsqueeze(-1)), c)
    return y.to(sequence.dtype)


class _Recurrence(torch.autograd.Function):
    """The adjoint of a linear recurrence is the same recurrence, run backwards."""

    @staticmethod
    def forward(ctx: Any, transition: Tensor, drive: Tensor, chunk: int) -> Tensor:
        states = _chunked_scan(transition, drive, chunk)
        ctx.save_for_backward(transition, states)
        ctx.chunk = chunk
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        transition, states = ctx.saved_tensors
        next_transition = torch.cat([transition[:, 1:], torch.zeros_like(transition[:, :1])], dim=1)
        adjoint = _chunked_scan(next_transition.flip(1), gradients[0].flip(1), ctx.chunk).flip(1)
        previous = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
        return adjoint * previous, adjoint, None


def _chunked_scan(transition: Tensor, drive: Tensor, size: int) -> Tensor:
    batch, length, *state = drive.shape
    chunks = -(-length // size)
    padding = [0, 0] * len(state) + [0, chunks * size - length]
    transition, drive = (
        functional.pad(tensor, padding).view(batch, chunks, size, *state) for tensor in (transition, drive)
    )
    states = drive.clone()
    reach = transition.clone()  # the product of transitions from a chunk's start to each of its tokens
    for token in range(1, size):
        states[:, :, token] += transition[:, :, token] * states[:, :, token - 1]
        reach[:, :, token] *= reach[:, :, token - 1]
    for chunk in range(1, chunks):
        states[:, chunk] += reach[:, chunk] * states[:, chunk - 1, -1:]
    return states.view(batch, chunks * size, *state)[:, :length]


class SelectiveStateSpace(nn.Module):
    """SSM over a sequence of ``channels`` channels with ``state`` hidden values each: Eq. 3-6.

    Runs in float32 whatever the autocast, for the reason that ``selective_scan`` gives.
    """

    def __init__(self, *, channels: int, state: int = 16, skip: bool = True) -> None:
        """Build the layer; ``skip`` adds Mamba's residual, which the paper does not print."""
        super().__init__()
        self.step = nn.Linear(channels, channels)
        self.input_map = nn.Linear(channels, state, bias=False)
        self.output_map = nn.Linear(channels, state, bias=False)
        self.log_decay = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(channels, 1))
        self.skip = nn.Parameter(torch.ones(channels)) if skip else None
        steps = torch.logspace(-3, -1, channels)
        with torch.no_grad():
            self.step.weight.mul_(0.1)
            self.step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus^-1: memories of 10 to 1000 tokens

    def forward(self, sequence: Float[Tensor, "batch length channel"]) -> Float[Tensor, "batch length channel"]:
        """Give C_t h_t (Eq. 6) of each token, plus ``skip`` x_t where there is that residual."""
        with torch.autocast(sequence.device.type, enabled=False):
            sequence = sequence.to(torch.promote_types(sequence.dtype, torch.float32))
            step = functional.softplus(self.step(sequence))
            input_map, output_map = self.input_map(sequence), self.output_map(sequence)
            output = selective_scan(sequence, step, -self.log_decay.exp(), input_map, output_map)
            return output if self.skip is None else output + self.skip * sequence
