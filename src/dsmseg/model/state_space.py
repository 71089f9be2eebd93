"""§ 3.1: the selective state space layer, Eq. 3-6.

A sequence of D channels drives D independent states of size N. Step size, input and output maps depend on the sequence
itself (the selection of Mamba); the recurrence is linear in the number of tokens.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


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
    transition: Float[Tensor, "batch length *state"], drive: Float[Tensor, "batch length *state"]
) -> Float[Tensor, "batch length *state"]:
    """Give all h_t of ``h_t = transition_t * h_(t-1) + drive_t``, with h_(-1) = 0 (Eq. 5).

    The sequence is cut into about sqrt(length) chunks that advance side by side, so the number of dependent
    operations is 2 sqrt(length), not length.
    """
    states: Tensor = _Recurrence.apply(transition, drive)  # type: ignore[no-untyped-call]
    return states


class _Recurrence(torch.autograd.Function):
    """The adjoint of a linear recurrence is the same recurrence, run backwards."""

    @staticmethod
    def forward(ctx: Any, transition: Tensor, drive: Tensor) -> Tensor:
        states = _chunked_scan(transition, drive)
        ctx.save_for_backward(transition, states)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        transition, states = ctx.saved_tensors
        next_transition = torch.cat([transition[:, 1:], torch.zeros_like(transition[:, :1])], dim=1)
        adjoint = _chunked_scan(next_transition.flip(1), gradients[0].flip(1)).flip(1)
        previous = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
        return adjoint * previous, adjoint


def _chunked_scan(transition: Tensor, drive: Tensor) -> Tensor:
    batch, length, *state = drive.shape
    size = max(1, math.isqrt(length))
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

    Runs in float32 whatever the autocast: a product of thousands of transitions does not survive bfloat16.
    """

    def __init__(self, *, channels: int, state: int = 16) -> None:
        super().__init__()
        self.step = nn.Linear(channels, channels)
        self.input_map = nn.Linear(channels, state, bias=False)
        self.output_map = nn.Linear(channels, state, bias=False)
        self.log_decay = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(channels, 1))
        self.skip = nn.Parameter(torch.ones(channels))
        steps = torch.logspace(-3, -1, channels)
        with torch.no_grad():
            self.step.weight.mul_(0.1)
            self.step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus^-1: memories of 10 to 1000 tokens

    def forward(self, sequence: Float[Tensor, "batch length channel"]) -> Float[Tensor, "batch length channel"]:
        """Give y_t = C_t h_t + D x_t for each token."""
        with torch.autocast(sequence.device.type, enabled=False):
            sequence = sequence.float() if sequence.dtype != torch.float64 else sequence
            step = functional.softplus(self.step(sequence))
            transition, input_factor = zero_order_hold(step, -self.log_decay.exp())
            drive = input_factor * self.input_map(sequence).unsqueeze(-2) * sequence.unsqueeze(-1)
            states = recurrence(transition, drive)
            output = torch.einsum("blcs,bls->blc", states, self.output_map(sequence))
            return output + self.skip * sequence
