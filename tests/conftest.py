"""Settings of the whole test suite, and where the real data is."""

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fireact.base.machine import cache_directory
from fireact.models.weights import BUILT_IN

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NO_CHROMIUM = "no Chromium with its chromedriver is installed"
INSTALL = "apt-get install chromium chromium-driver"
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
    "--force-prefers-reduced-motion",
)

LONGEST = (
    "train_launch",
    "serve",
    "quickstart",
    "renderers_train",
    "train_more",
    "renderers",
    "preference",
    "train",
    "mcp",
    "record",
    "report",
    "study",
    "train_models",
    "study_file",
    "docs",
    "cli",
    "export",
    "formats_released",
    "improve",
    "collect",
)
"""The test files that took longest on two cores, the longest first."""

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the cache of the process that starts them
    _CACHE = tempfile.TemporaryDirectory(prefix="fireact-cache-", ignore_cleanup_errors=True)
    prepared_student = cache_directory() / BUILT_IN
    if prepared_student.is_dir():  # its conversion takes a minute
        (Path(_CACHE.name) / BUILT_IN).symlink_to(prepared_student.resolve(), target_is_directory=True)
    os.environ["FIREACT_CACHE"] = _CACHE.name
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from more threads
settings.register_profile("ci", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("ci")
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so a shell starts what is in the background, and programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Exempt all imported objects from garbage collection, which then takes less time in each training."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files go first, then others with slow tests, so that all workers end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (ranks.get(item.path.name, len(ranks)), item.path not in slow))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Where tests were skipped without Chromium, name their files and its installation in the last line."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", ()) if reporter is not None else ()
    skipped = [report for report in reports if NO_CHROMIUM in str(report.longrepr)]
    if skipped:
        names = ", ".join(sorted({Path(report.nodeid.partition("::")[0]).name for report in skipped}))
        reporter.write_line(f"{len(skipped)} tests in {names} were skipped without Chromium; it comes with: {INSTALL}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, beside the repository or named by FIREACT_DATA; tests that need it skip without."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FIREACT_DATA", default))
    if not folder.is_dir():
        pytest.skip("the folder of real data is not here (set FIREACT_DATA to it)")
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window; tests that need one skip where it, its driver or selenium is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (the extra dev has it)")
    from selenium.webdriver.chrome.service import Service

    binary = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip(f"{NO_CHROMIUM} ({INSTALL})")
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        browser = webdriver.Chrome(options=options, service=Service(driver))
        yield browser
        browser.quit()
