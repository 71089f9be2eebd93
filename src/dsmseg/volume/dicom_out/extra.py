"""The extra [dicom]: pydicom and highdicom, which only those need who write DICOM."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

from dsmseg.errors import InputError


class Packages(NamedTuple):
    """The two packages, imported."""

    pydicom: ModuleType
    highdicom: ModuleType


def dicom_packages() -> Packages:
    """Import pydicom and highdicom.

    Raises:
        InputError: one is not installed.
    """
    try:
        import highdicom
        import pydicom
    except ImportError as error:
        raise InputError(
            "DICOM output needs highdicom", mend='Install it: pip install "dsmseg[dicom]", or choose another format.'
        ) from error
    return Packages(pydicom, highdicom)


@contextmanager
def unwarned() -> Iterator[None]:
    """Silence warnings about values of the source that no one can mend here, such as names that are too long."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
