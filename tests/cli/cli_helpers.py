"""What the tests of the command line share."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)  # noqa: S603


def write_scan(path: Path, array: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Path:
    """A ball of soft tissue in air."""
    if array is None:
        distance = np.linalg.norm(np.indices((24, 24, 20)).T - [10, 12, 12], axis=-1).T
        array = np.where(distance < 9, 50, -1000).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def one_line(text: str) -> str:
    """The one line on stderr, and that it is one."""
    (line,) = text.splitlines()
    assert line.startswith("dsmseg: ")
    assert "Traceback" not in line
    return line


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
