"""An error is one line, and stays what it is on its way between processes."""

import pickle
from pathlib import Path

import pytest

from dsmseg.datasets.loading import GridMismatchError
from dsmseg.errors import DsmsegError, InputError, OutputError, WeightsError
from dsmseg.volume import IntensityError


@pytest.mark.parametrize(
    "kind", [DsmsegError, InputError, OutputError, WeightsError, GridMismatchError, IntensityError]
)
@pytest.mark.parametrize("where", [None, Path("a/b.nii"), "--option"])
def test_an_error_comes_back_from_another_process_as_it_was(kind, where) -> None:
    error = kind("is\nbroken", where=where, mend="Mend it.")
    back = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(back) is kind
    assert (str(back), back.what, back.where, back.mend) == (str(error), "is\nbroken", where, "Mend it.")
    assert "\n" not in str(back)
