"""What all tests share: no test measures time, and real scans are used where a checkout has them beside it."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("no_clock", deadline=None)
settings.load_profile("no_clock")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Give the folder of real scans, or skip."""
    if not SHARED.is_dir():
        pytest.skip("the real scans are not here")
    return SHARED
