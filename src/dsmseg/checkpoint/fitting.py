"""Whether tensors are those that a network asks for, one by one."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dsmseg.errors import WeightsError


def refuse_misfit(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, network: str, where: Path, mend: str
) -> None:
    """Refuse tensors that a network cannot be filled with; values are not looked at.

    Args:
        found: the tensors of a file, by name.
        expected: the state of the network that ``network`` describes, on any device.
        network: what the tensors are for, such as "preset starter, stage 1".
        where: the file.
        mend: what the caller can do.

    Raises:
        WeightsError: tensors are missing, unknown, of another shape, or integers instead of real numbers.
    """
    common = [name for name in expected if name in found]
    faults = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "of another shape": [name for name in common if expected[name].shape != found[name].shape],
        "of another type": [
            name for name in common if expected[name].is_floating_point() and not found[name].is_floating_point()
        ],
    }
    for fault, names in faults.items():
        if names:
            numbered = re.sub(r"^1 tensors are", "1 tensor is", f"{len(names)} tensors are")
            raise WeightsError(f"{numbered} {fault} for {network} (first: {names[0]})", where=where, mend=mend)
