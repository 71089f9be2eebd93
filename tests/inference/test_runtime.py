import platform

import pytest
import torch

from dsmseg import resources
from dsmseg.errors import InputError
from dsmseg.inference import Segmenter
from dsmseg.inference.runtime import choose_runtime, leaving_a_core_free, processor


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


def test_a_core_is_left_free_and_the_threads_come_back(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(resources, "cores", lambda: 2)
    with pytest.raises(ValueError, match="fault"), leaving_a_core_free():
        assert torch.get_num_threads() == 1
        raise ValueError("fault")
    assert torch.get_num_threads() == before
    monkeypatch.setattr(resources, "cores", lambda: 1)
    with leaving_a_core_free():
        assert torch.get_num_threads() == 1


def test_the_number_of_threads_changes_no_byte(phantom, write_scan):
    path, segmenter = write_scan(phantom((40, 40, 40))), Segmenter.load("starter", device="cpu")
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(segmenter(path))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert result.organs.tobytes() == results[0].organs.tobytes()
        assert result.anomaly_levels.tobytes() == results[0].anomaly_levels.tobytes()
        assert result.unexplained_levels.tobytes() == results[0].unexplained_levels.tobytes()


def test_the_processor_is_named_with_its_instructions(monkeypatch):
    known = {"cpu_name": "Intel Xeon", "amx_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert processor() == "Intel Xeon, AVX512 with bfloat16"
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert processor() == f"{platform.machine()}, AVX512"
