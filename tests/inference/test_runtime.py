import pytest
import torch

from dsmseg.errors import InputError
from dsmseg.inference.runtime import choose_runtime


def test_auto_takes_the_processor_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_runtime("auto").device.type == "cpu"


def test_a_gpu_that_is_not_there_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA GPU"):
        choose_runtime("cuda")


def test_an_unknown_device_is_told_in_one_line():
    with pytest.raises(InputError, match="'tpu'"):
        choose_runtime("tpu")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_bfloat16_is_used_only_where_the_processor_has_instructions_for_it(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_runtime("cpu").dtype == dtype
