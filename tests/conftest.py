"""Settings of the whole test suite, and where the real data is."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("ci")
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so a shell starts what is in the background, and programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, beside the repository or named by FIREACT_DATA; tests that need it skip without."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FIREACT_DATA", default))
    if not folder.is_dir():
        pytest.skip("the folder of real data is not here (set FIREACT_DATA to it)")
    return folder
