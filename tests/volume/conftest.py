"""What the tests of reading and writing share."""

from pathlib import Path

import pytest
from dicom_series import DicomSeries

from dsmseg.errors import InputError
from dsmseg.volume import read_scan


@pytest.fixture(scope="session")
def dicom_series():
    return DicomSeries


@pytest.fixture
def refused():
    """Check that reading is refused in one line that names the path and says what is the matter."""

    def check(path, words, read=read_scan):
        with pytest.raises(InputError) as caught:
            read(path)
        line = str(caught.value)
        assert "\n" not in line
        assert str(path) in line
        assert words in line
        assert caught.value.mend

    return check


@pytest.fixture
def shared_data():
    folder = Path(__file__).parents[2] / "../shared/data"
    if not folder.is_dir():
        pytest.skip("the real test data is not here")
    return folder
