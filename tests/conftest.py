"""What every test may use: real text and a place for real shards."""

from __future__ import annotations

import os
import shutil
import signal
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from empty_store import empty_store
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# A machine that does something else for a second is no finding.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# Ray ends a process, without a word and whatever else it does, whose cluster has not answered for this long
# (60 by default). The tests' own process outlives many clusters, some of which are killed.
os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "3600")
# And it gives its workers 60 seconds to start, which is little beside other tests.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")

# Where the tests are started in the background a shell has Ctrl-C ignored, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST_FIRST = ("test_road.py", "faults", "cluster")
"""So that two workers that take a file at a time end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files first whose tests start processes of their own."""

    def place(item: pytest.Item) -> int:
        return next(
            (n for n, name in enumerate(LONGEST_FIRST) if name in item.path.parts), len(LONGEST_FIRST)
        )

    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin no slow test after ``TESTS_UNTIL`` (seconds since 1970, of CI), and say so: machines differ by
    three times, and a run that is broken off shows nothing."""
    until = os.environ.get("TESTS_UNTIL")
    if until and time.time() > float(until) and item.get_closest_marker("slow"):
        pytest.skip("not begun: the time that TESTS_UNTIL gives is over")


@pytest.fixture(scope="session", autouse=True)
def own_downloads(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Downloads of test models do not stay in the home of whoever tests."""
    os.environ["ODEFORMER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def text_files() -> list[Path]:
    """A few modules of the standard library: real text that every machine has."""
    root = Path(sysconfig.get_path("stdlib"))
    return [
        root / name
        for name in ("argparse.py", "ast.py", "csv.py", "heapq.py", "json/decoder.py", "shutil.py")
    ]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, text_files: list[Path]) -> Path:
    """Small shards of that text: a vocabulary of 400, sequences of 32 tokens."""
    from data.shards import build

    folder = tmp_path_factory.mktemp("shards") / "shards"
    build(text_files, folder, vocabulary_size=400, sequence_length=32, held_out=0.2)
    return folder


@pytest.fixture(scope="session")
def shared_texts() -> Path:
    """The folder of benchmark texts; skips, saying so, where it is absent."""
    folder = Path(os.environ.get("ODEFORMER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"ODEFORMER_DATA: {folder} is not there")
    return folder


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """The address of an empty MLflow store of the test's own."""
    return empty_store(tmp_path)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window, by Playwright."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not there: apt-get install chromium, to see the page drawn")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object | None) -> None:
    """Print the last words of a test process that Ray ended: it leaves them in a file alone."""
    logs = Path("/tmp").glob("odf-*/session_2*/logs/python-core-driver-*.log") if error else ()
    for log in logs:
        lines = log.read_text(errors="replace").splitlines()
        if any("Check failed" in line or " C " in line[:60] for line in lines):
            print(f"\n{log}:", *lines[-40:], sep="\n", flush=True)
