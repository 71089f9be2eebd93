"""Eq. 3-6 on an NVIDIA GPU, in three passes over chunks of tokens; no (length, channel, state) tensor reaches memory.

1. Every chunk by itself, from h = 0: the state that it ends with, and the sum of its steps.
2. Along the chunks: the state that each starts with. From the chunk before, ``exp(A sum(Δ))`` of a state remains.
3. Every chunk by itself again, from the state that it really starts with: y.

Backward does the same with the adjoint, from the last chunk to the first. Signals of channels are laid out
(batch, channel, length), maps (batch, length, state), one row a chunk (batch, channel, chunk, state).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 64  # tokens of a chunk, and chunks that the second pass takes at a time


def selective_scan(
    sequence: Float[Tensor, "batch length channel"],
    step: Float[Tensor, "batch length channel"],
    decay: Float[Tensor, "channel state"],
    input_map: Float[Tensor, "batch length state"],
    output_map: Float[Tensor, "batch length state"],
) -> Float[Tensor, "batch length channel"]:
    """Give y_t = C_t h_t (Eq. 3-6) for float32 tensors on one GPU: ``state_space.selective_scan``, fused."""
    signals = sequence.transpose(1, 2), step.transpose(1, 2)
    result: Tensor = _SelectiveScan.apply(*signals, decay, input_map, output_map)  # type: ignore[no-untyped-call]
    return result.transpose(1, 2)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
        inputs = x, step, decay, b, c = tuple(tensor.contiguous() for tensor in (x, step, decay, b, c))
        (batch, channels, length), state = x.shape, decay.shape[1]
        sizes = {"length": length, "STATE": state, "LANES": triton.next_power_of_2(state), "CHUNK": CHUNK}
        chunks = triton.cdiv(length, CHUNK)
        sums, y = x.new_empty(batch, channels, chunks), torch.empty_like(x)
        ends, starts = x.new_empty(2, batch, channels, chunks, state)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            _end_of_chunk[chunks, channels, batch](x, step, decay, b, sums, ends, **sizes)
            _along_chunks[channels, batch](decay, sums, ends, starts, chunks, **sizes, BACKWARDS=False)
            _outputs[chunks, channels, batch](x, step, decay, b, c, starts, y, **sizes)
        ctx.save_for_backward(*inputs, sums, starts)
        ctx.sizes = sizes
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, step, decay, b, c, sums, starts = ctx.saved_tensors
        gradient, sizes = gradient.contiguous(), ctx.sizes
        batch, channels, chunks, _ = starts.shape
        fronts, adjoints, decay_gradient = (torch.empty_like(starts) for _ in range(3))
        dx, dstep, db, dc = (torch.empty_like(tensor) for tensor in (x, step, b, c))
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            _front_of_chunk[chunks, channels, batch](step, decay, c, gradient, fronts, **sizes)
            _along_chunks[channels, batch](decay, sums, fronts, adjoints, chunks, **sizes, BACKWARDS=True)
            _gradients[chunks, batch](
                x, step, decay, b, c, starts, adjoints, gradient, dx, dstep, decay_gradient, db, dc, channels, **sizes
            )
        return dx, dstep, decay_gradient.sum((0, 2)), db, dc


@triton.jit
def _end_of_chunk(
    x: tl.tensor, step: tl.tensor, decay: tl.tensor, b: tl.tensor, sums: tl.tensor, ends: tl.tensor, length: int,
    STATE: tl.constexpr, LANES: tl.constexpr, CHUNK: tl.constexpr,
) -> None:  # fmt: skip
    """Pass 1: what a chunk adds to the state at its end, sum over t of exp(A (Δ_(t+1) + ...)) B_t x_t, and its Δ."""
    row, case = _row(), tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    steps = _signal(step, row, t, length)
    a = _decay(decay, tl.program_id(1), STATE, LANES)
    drive = _drive(steps, _signal(x, row, t, length), a, _map(b, case, t, length, STATE, LANES))
    total = tl.sum(steps)
    rest = total - tl.cumsum(steps)
    end = tl.sum(tl.exp(rest[:, None] * a[None, :]) * drive, axis=0)
    chunk = row * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums + chunk, total)
    _store_row(ends, chunk, end, STATE, LANES)


@triton.jit
def _front_of_chunk(
    step: tl.tensor, decay: tl.tensor, c: tl.tensor, gradient: tl.tensor, fronts: tl.tensor, length: int,
    STATE: tl.constexpr, LANES: tl.constexpr, CHUNK: tl.constexpr,
) -> None:  # fmt: skip
    """Pass 1 of backward: what a chunk hands to the token before it, the sum of exp(A (... + Δ_t)) C_t dL/dy_t."""
    row, case = _row(), tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    reach = tl.cumsum(_signal(step, row, t, length))
    a = _decay(decay, tl.program_id(1), STATE, LANES)
    source = _map(c, case, t, length, STATE, LANES) * _signal(gradient, row, t, length)[:, None]
    front = tl.sum(tl.exp(reach[:, None] * a[None, :]) * source, axis=0)
    _store_row(fronts, row * tl.num_programs(0) + tl.program_id(0), front, STATE, LANES)


@triton.jit
def _along_chunks(
    decay: tl.tensor, sums: tl.tensor, ends: tl.tensor, starts: tl.tensor, chunks: int, length: int,
    STATE: tl.constexpr, LANES: tl.constexpr, CHUNK: tl.constexpr, BACKWARDS: tl.constexpr,
) -> None:  # fmt: skip
    """Pass 2: from what each chunk adds, what reaches the next one (backwards: the one before)."""
    row = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    a = _decay(decay, tl.program_id(0), STATE, LANES)
    s, place = tl.arange(0, LANES), tl.arange(0, CHUNK)
    carry = tl.zeros([LANES], tl.float32)
    for first in range(0, chunks, CHUNK):
        order = first + place
        chunk = chunks - 1 - order if BACKWARDS else order
        towards = chunk - 1 if BACKWARDS else chunk + 1
        at = (row * chunks + chunk)[:, None] * STATE + s[None, :]
        inside = (order < chunks)[:, None] & (s < STATE)[None, :]
        kept = tl.exp(tl.load(sums + row * chunks + chunk, order < chunks, other=0.0)[:, None] * a[None, :])
        added = tl.load(ends + at, inside, other=0.0)
        added += tl.where(place[:, None] == 0, kept * carry[None, :], 0.0)
        kept, state = tl.associative_scan((kept, added), 0, _compose)
        at = (row * chunks + towards)[:, None] * STATE + s[None, :]
        tl.store(starts + at, state, inside & (order < chunks - 1)[:, None])
        carry = tl.sum(tl.where(place[:, None] == CHUNK - 1, state, 0.0), axis=0)
    edge = chunks - 1 if BACKWARDS else 0
    _store_row(starts, row * chunks + edge, tl.zeros([LANES], tl.float32), STATE, LANES)


@triton.jit
def _outputs(
    x: tl.tensor, step: tl.tensor, decay: tl.tensor, b: tl.tensor, c: tl.tensor, starts: tl.tensor, y: tl.tensor,
    length: int, STATE: tl.constexpr, LANES: tl.constexpr, CHUNK: tl.constexpr,
) -> None:  # fmt: skip
    """Pass 3: the states of a chunk by a scan, and y = C h."""
    row, case = _row(), tl.program_id(2).to(tl.int64)
    place = tl.arange(0, CHUNK)
    t = tl.program_id(0) * CHUNK + place
    steps = _signal(step, row, t, length)
    a = _decay(decay, tl.program_id(1), STATE, LANES)
    start = _load_row(starts, row * tl.num_programs(0) + tl.program_id(0), STATE, LANES)
    transition = tl.exp(steps[:, None] * a[None, :])
    drive = _drive(steps, _signal(x, row, t, length), a, _map(b, case, t, length, STATE, LANES))
    drive += tl.where(place[:, None] == 0, transition * start[None, :], 0.0)
    transition, h = tl.associative_scan((transition, drive), 0, _compose)
    tl.store(y + row * length + t, tl.sum(_map(c, case, t, length, STATE, LANES) * h, axis=1), t < length)


@triton.jit
def _gradients(
    x: tl.tensor, step: tl.tensor, decay: tl.tensor, b: tl.tensor, c: tl.tensor, starts: tl.tensor,
    adjoints: tl.tensor, gradient: tl.tensor, dx: tl.tensor, dstep: tl.tensor, ddecay: tl.tensor, db: tl.tensor,
    dc: tl.tensor, channels: int, length: int, STATE: tl.constexpr, LANES: tl.constexpr, CHUNK: tl.constexpr,
) -> None:  # fmt: skip
    """Pass 3 of backward, all channels of a chunk in turn: B and C are shared by the channels, so their gradients add.

    The states before each token come from a scan over the tokens before; with ``reach`` = h_(t-1) + B x / A a state is
    h_t = h_(t-1) + (exp(ΔA) - 1) reach. The adjoint g = dL/dh comes from a scan in the other direction.
    """
    case, place, s = tl.program_id(1).to(tl.int64), tl.arange(0, CHUNK), tl.arange(0, LANES)
    t = tl.program_id(0) * CHUNK + place
    b_t, c_t = _map(b, case, t, length, STATE, LANES), _map(c, case, t, length, STATE, LANES)
    b_before = _map(b, case, t - 1, length, STATE, LANES)
    b_sum, c_sum = tl.zeros([CHUNK, LANES], tl.float32), tl.zeros([CHUNK, LANES], tl.float32)
    for channel in range(channels):
        row = case * channels + channel
        chunk = row * tl.num_programs(0) + tl.program_id(0)
        a = _decay(decay, channel, STATE, LANES)
        before, after = _signal(step, row, t - 1, length), _signal(step, row, t + 1, length)
        start = tl.where(place[:, None] == 0, _load_row(starts, chunk, STATE, LANES)[None, :], 0.0)
        drive = tl.where(place[:, None] == 0, start, _drive(before, _signal(x, row, t - 1, length), a, b_before))
        _, h = tl.associative_scan((tl.exp(before[:, None] * a[None, :]), drive), 0, _compose)
        dy = _signal(gradient, row, t, length)[:, None]
        arriving = _load_row(adjoints, chunk, STATE, LANES)[None, :]
        g = c_t * dy + tl.where(place[:, None] == CHUNK - 1, arriving, 0.0)
        _, g = tl.associative_scan((tl.exp(after[:, None] * a[None, :]), g), 0, _compose, reverse=True)
        steps, x_t = _signal(step, row, t, length)[:, None], _signal(x, row, t, length)[:, None]
        growth = _exp_minus_one(steps * a[None, :])
        drive = b_t * x_t / a[None, :]
        reach, passed, held = h + drive, g + g * growth, g * growth / a[None, :]
        b_sum += held * x_t
        c_sum += dy * (h + growth * reach)
        tl.store(dx + row * length + t, tl.sum(held * b_t, axis=1), t < length)
        tl.store(dstep + row * length + t, tl.sum(passed * reach * a[None, :], axis=1), t < length)
        _store_row(ddecay, chunk, tl.sum(steps * passed * reach - held * drive, axis=0), STATE, LANES)
    at = (case * length + t)[:, None] * STATE + s[None, :]
    inside = (t < length)[:, None] & (s < STATE)[None, :]
    tl.store(db + at, b_sum, inside)
    tl.store(dc + at, c_sum, inside)


@triton.jit
def _compose(
    transition: tl.tensor, drive: tl.tensor, later_transition: tl.tensor, later_drive: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Give one step h -> transition h + drive for two in a row: what makes Eq. 5 a scan."""
    return transition * later_transition, later_transition * drive + later_drive


@triton.jit
def _drive(steps: tl.tensor, x: tl.tensor, a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Give B_t x_t after discretization, (exp(ΔA) - 1) / A B x (Eq. 4)."""
    return _exp_minus_one(steps[:, None] * a[None, :]) / a[None, :] * b * x[:, None]


@triton.jit
def _exp_minus_one(z: tl.tensor) -> tl.tensor:
    """Give exp(z) - 1; by its series where the difference would lose digits."""
    series = z * (1 + z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5 * (1 + z / 6 * (1 + z / 7))))))
    return tl.where(tl.abs(z) < 0.35, series, tl.exp(z) - 1)


@triton.jit
def _row() -> tl.tensor:
    """Number the program's case and channel."""
    return tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)


@triton.jit
def _signal(pointer: tl.tensor, row: tl.tensor, t: tl.tensor, length: int) -> tl.tensor:
    """Load one channel at tokens t; zero outside the sequence, where a step of zero leaves states as they are."""
    return tl.load(pointer + row * length + t, (t >= 0) & (t < length), other=0.0)


@triton.jit
def _map(
    pointer: tl.tensor, case: tl.tensor, t: tl.tensor, length: int, STATE: tl.constexpr, LANES: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    s = tl.arange(0, LANES)
    inside = ((t >= 0) & (t < length))[:, None] & (s < STATE)[None, :]
    return tl.load(pointer + (case * length + t)[:, None] * STATE + s[None, :], inside, other=0.0)


@triton.jit
def _decay(pointer: tl.tensor, channel: tl.tensor, STATE: tl.constexpr, LANES: tl.constexpr) -> tl.tensor:
    """Load the diagonal of A; lanes without a state get -1, which can be divided by."""
    s = tl.arange(0, LANES)
    return tl.load(pointer + channel * STATE + s, s < STATE, other=-1.0)


@triton.jit
def _load_row(pointer: tl.tensor, row: tl.tensor, STATE: tl.constexpr, LANES: tl.constexpr) -> tl.tensor:
    s = tl.arange(0, LANES)
    return tl.load(pointer + row * STATE + s, s < STATE, other=0.0)


@triton.jit
def _store_row(pointer: tl.tensor, row: tl.tensor, value: tl.tensor, STATE: tl.constexpr, LANES: tl.constexpr) -> None:
    s = tl.arange(0, LANES)
    tl.store(pointer + row * STATE + s, value, s < STATE)
