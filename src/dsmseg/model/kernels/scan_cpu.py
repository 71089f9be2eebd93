"""Eq. 3-6 on the processor, fused: no tensor of size (length, channel, state) is ever held.

The channels are cut into blocks of one vector register; an item is one block of one case of the batch. Forward walks
along the tokens and keeps the states at the start of every chunk. Backward takes the chunks from the last to the
first, makes a chunk's states again and runs the adjoint recurrence through it. Blocks do not depend on the number of
threads, so neither does any result.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dsmseg.compilation import compiled
from dsmseg.model.kernels import in_threads
from dsmseg.model.kernels.fast_math import LOG2_E, exp2m1

CHUNK = 64  # tokens; a chunk's states and transitions stay in the second cache of one core
LANES = 16  # channels of a block: one AVX-512 register

# A row of scratch holds all that a loop over lanes needs of one token, and another all that it needs of one state.
# Constant places in few rows: otherwise LLVM cannot see that a loop's stores spare its loads, and does not vectorize.
_X, _STEP, _Y, _X_GRADIENT, _STEP_GRADIENT, _TOKEN_END = (place * LANES for place in range(6))
_RATE, _INVERSE, _H, _ADJOINT, _DECAY_GRADIENT, _STATE_END = (place * LANES for place in range(6))

_LN_2 = np.float32(1 / LOG2_E)

# Sums may be reordered, which a sum over lanes needs; NaN and infinity keep their meaning.
_FAST = {"contract", "reassoc", "nsz"}


class _Inputs(NamedTuple):
    """x, Δ (case, token, channel) and B, C (case, token, state) as arrays."""

    x: Any
    step: Any
    b: Any
    c: Any


class _Gradients(NamedTuple):
    """As ``_Inputs``; those of B, C (item, token, state) and A (item, state, lane) are still apart for each item."""

    x: Any
    step: Any
    b: Any
    c: Any
    decay: Any


def selective_scan(
    sequence: Float[Tensor, "batch length channel"],
    step: Float[Tensor, "batch length channel"],
    decay: Float[Tensor, "channel state"],
    input_map: Float[Tensor, "batch length state"],
    output_map: Float[Tensor, "batch length state"],
) -> Float[Tensor, "batch length channel"]:
    """Give y_t = C_t h_t (Eq. 3-6) for float32 tensors in main memory: ``state_space.selective_scan``, fused."""
    result: Tensor = _SelectiveScan.apply(sequence, step, decay, input_map, output_map)  # type: ignore[no-untyped-call]
    return result


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sequence: Tensor, step: Tensor, decay: Tensor, input_map: Tensor, output_map: Tensor
    ) -> Tensor:
        inputs = [tensor.contiguous() for tensor in (sequence, step, input_map, output_map)]
        (batch, length, channels), state = sequence.shape, decay.shape[1]
        systems = _systems(decay)
        items = batch * systems.shape[0]
        starts = systems.new_empty(items, -(-length // CHUNK), state, LANES)
        output = systems.new_empty(batch, length, channels)
        arrays = _Inputs(*(tensor.numpy() for tensor in inputs)), systems.numpy(), starts.numpy(), output.numpy()
        in_threads(lambda first, last: _forward(first, last, *arrays), items)
        ctx.save_for_backward(*inputs, systems, starts)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        *inputs, systems, starts = ctx.saved_tensors
        (batch, length, channels), (items, _, state, _) = gradient.shape, starts.shape
        sequence, step = gradient.new_empty(2, batch, length, channels)
        maps, decay = gradient.new_empty(2, items, length, state), gradient.new_empty(items, state, LANES)
        written = _Gradients(*(tensor.numpy() for tensor in (sequence, step, *maps, decay)))
        read = (tensor.numpy() for tensor in (systems, starts, gradient.contiguous()))
        arrays = _Inputs(*(tensor.numpy() for tensor in inputs)), *read, written
        in_threads(lambda first, last: _backward(first, last, *arrays), items)
        input_map, output_map = maps.view(2, batch, -1, length, state).sum(2)
        decay = decay.view(batch, -1, state, LANES).sum(0).transpose(1, 2).reshape(-1, state)
        return sequence, step, decay[:channels], input_map, output_map


def _systems(decay: Float[Tensor, "channel state"]) -> Float[Tensor, "block state two_lane"]:
    """Give A log2(e) and 1/A, lane by lane; zero in a lane without channel, whose states thus stay zero."""
    channels, state = decay.shape
    blocks = -(-channels // LANES)
    values = functional.pad(torch.stack([decay * float(LOG2_E), 1 / decay]), (0, 0, 0, blocks * LANES - channels))
    return values.view(2, blocks, LANES, state).permute(1, 3, 0, 2).flatten(2).contiguous()


@compiled(fastmath=_FAST)
def _forward(first: int, last: int, inputs: _Inputs, systems: Any, starts: Any, y: Any) -> None:
    """Fill y and the states at the start of every chunk for the items from ``first`` to ``last``."""
    x, step, b, c = inputs
    tokens, states = np.zeros((CHUNK, _X_GRADIENT), np.float32), np.empty((b.shape[2], _ADJOINT), np.float32)
    for item in range(first, last):
        case, block = divmod(item, systems.shape[0])
        states[:, :_H] = systems[block]
        states[:, _H:] = 0
        for number in range(starts.shape[1]):
            starts[item, number] = states[:, _H:]
            begin, end = number * CHUNK, min((number + 1) * CHUNK, x.shape[1])
            _load(x[case, begin:end], block, tokens, _X)
            _load(step[case, begin:end], block, tokens, _STEP)
            tokens[:, _Y:] = 0
            for t in range(begin, end):
                for s in range(b.shape[2]):
                    _advance(tokens[t - begin], states[s], b[case, t, s], c[case, t, s])
            _store(tokens, _Y, y[case, begin:end], block)


@njit(fastmath=_FAST, forceinline=True)
def _advance(token: Any, state: Any, b: Any, c: Any) -> None:
    """Take one state to the next token, as h + (exp(ΔA) - 1) (h + B x / A), and add C h to y."""
    for lane in range(LANES):
        growth = exp2m1(token[_STEP + lane] * state[_RATE + lane])
        h = state[_H + lane]
        h += growth * (h + b * token[_X + lane] * state[_INVERSE + lane])
        state[_H + lane] = h
        token[_Y + lane] += c * h


@compiled(fastmath=_FAST)
def _backward(
    first: int, last: int, inputs: _Inputs, systems: Any, starts: Any, gradient: Any, gradients: _Gradients
) -> None:
    """Fill the gradients of the items from ``first`` to ``last``, given that of y."""
    count = systems.shape[1]
    tokens, states = np.zeros((CHUNK, _TOKEN_END), np.float32), np.empty((count, _STATE_END), np.float32)
    past = np.empty((CHUNK, count, 2 * LANES), np.float32)
    for item in range(first, last):
        case, block = divmod(item, systems.shape[0])
        states[:, :_H] = systems[block]
        states[:, _H:] = 0
        gradients.decay[item] = 0
        for number in range(starts.shape[1] - 1, -1, -1):
            begin, end = number * CHUNK, min((number + 1) * CHUNK, gradient.shape[1])
            _load(inputs.x[case, begin:end], block, tokens, _X)
            _load(inputs.step[case, begin:end], block, tokens, _STEP)
            _load(gradient[case, begin:end], block, tokens, _Y)
            tokens[:, _X_GRADIENT:] = 0
            states[:, _H:_ADJOINT] = starts[item, number]
            b, c = inputs.b[case, begin:end], inputs.c[case, begin:end]
            _backward_chunk(tokens, states, past, b, c, gradients.b[item, begin:end], gradients.c[item, begin:end])
            _store(tokens, _X_GRADIENT, gradients.x[case, begin:end], block)
            _store(tokens, _STEP_GRADIENT, gradients.step[case, begin:end], block)
            gradients.decay[item] += states[:, _DECAY_GRADIENT:]  # by chunks: one long sum would lose digits
            states[:, _DECAY_GRADIENT:] = 0


@njit(fastmath=_FAST, forceinline=True)
def _backward_chunk(tokens: Any, states: Any, past: Any, b: Any, c: Any, db: Any, dc: Any) -> None:
    """Make a chunk's states again, then run the adjoint through it."""
    length, count = b.shape
    for t in range(length):
        for s in range(count):
            _remember(tokens[t], states[s], past[t, s], b[t, s])
    for t in range(length - 1, -1, -1):
        for s in range(count):
            db[t, s], dc[t, s] = _retreat(tokens[t], states[s], past[t, s], b[t, s], c[t, s])


@njit(fastmath=_FAST, forceinline=True)
def _remember(token: Any, state: Any, past: Any, b: Any) -> None:
    """Advance one state by one token, and keep h_(t-1) and exp(ΔA) - 1."""
    for lane in range(LANES):
        growth = exp2m1(token[_STEP + lane] * state[_RATE + lane])
        h = state[_H + lane]
        past[lane] = h
        past[LANES + lane] = growth
        state[_H + lane] = h + growth * (h + b * token[_X + lane] * state[_INVERSE + lane])


@njit(fastmath=_FAST, forceinline=True)
def _retreat(token: Any, state: Any, past: Any, b: Any, c: Any) -> tuple[np.float32, np.float32]:
    """Take the adjoint g of one state, dL/dh_t, to the token before it; give this token's gradients of B and C.

    With ``reach`` = h_(t-1) + B x / A, a state is h_t = h_(t-1) + (exp(ΔA) - 1) reach.
    """
    input_gradient, output_gradient = np.float32(0), np.float32(0)
    for lane in range(LANES):
        h, growth = past[lane], past[LANES + lane]
        inverse = state[_INVERSE + lane]
        drive = b * token[_X + lane] * inverse
        reach = h + drive
        g = state[_ADJOINT + lane] + c * token[_Y + lane]
        passed = g + g * growth
        held = g * growth * inverse
        state[_ADJOINT + lane] = passed
        state[_DECAY_GRADIENT + lane] += token[_STEP + lane] * passed * reach - held * drive
        token[_X_GRADIENT + lane] += held * b
        token[_STEP_GRADIENT + lane] += passed * reach * state[_RATE + lane] * _LN_2
        input_gradient += held * token[_X + lane]
        output_gradient += token[_Y + lane] * (h + growth * reach)
    return input_gradient, output_gradient


@njit(fastmath=_FAST, forceinline=True)
def _load(rows: Any, block: int, tokens: Any, place: int) -> None:
    for t in range(rows.shape[0]):
        for lane in range(min(LANES, rows.shape[1] - block * LANES)):
            tokens[t, place + lane] = rows[t, block * LANES + lane]


@njit(fastmath=_FAST, forceinline=True)
def _store(tokens: Any, place: int, rows: Any, block: int) -> None:
    for t in range(rows.shape[0]):
        for lane in range(min(LANES, rows.shape[1] - block * LANES)):
            rows[t, block * LANES + lane] = tokens[t, place + lane]
