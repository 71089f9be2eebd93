"""In which precision a run computes."""

import pytest
import torch

from dsmseg.inference.runtime import Runtime
from dsmseg.training import launching
from dsmseg.training.course_settings import Hardware


@pytest.mark.parametrize(
    ("asked", "has_instructions", "expected"),
    [
        ("auto", True, "bf16-mixed"),
        ("auto", False, "32-true"),
        ("bf16", False, "bf16-mixed"),
        ("fp32", True, "32-true"),
    ],
)
def test_bfloat16_is_used_where_the_processor_has_it_or_where_it_is_asked_for(
    asked, has_instructions, expected, monkeypatch
):
    dtype = torch.bfloat16 if has_instructions else torch.float32
    monkeypatch.setattr(launching, "choose_runtime", lambda device: Runtime(torch.device(device), dtype))
    hardware = Hardware(accelerator="cpu", precision=asked)
    assert launching._precision(hardware) == expected
