"""Memory that runs out is one line, and sets free what filled it."""

import gc
import weakref

import numpy as np
import pytest
import torch

from dsmseg.errors import InputError
from dsmseg.inference.memory import is_out_of_memory, telling_memory


def test_what_torch_says_when_memory_runs_out_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**52)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), KeyError("bad_alloc")])
def test_other_errors_stay_what_they_are(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, telling_memory():
        raise error
    assert caught.value is error


def test_memory_that_runs_out_is_told_and_what_filled_it_is_let_go():
    held = []

    def fill():
        array = np.zeros(1000)
        held.append(weakref.ref(array))
        raise MemoryError

    with pytest.raises(InputError, match="memory ran out for this scan") as caught, telling_memory():
        fill()
    gc.collect()
    assert held[0]() is None
    assert isinstance(caught.value.__cause__, MemoryError)
