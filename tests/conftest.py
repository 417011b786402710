"""What holds for every test: markers, no network, no leftover process, no clock of Hypothesis.

Markers other than `long` are not written in test files: `markers_of` gives them by path, fixture
and parameter, so that a new test of a backend is marked like those beside it.

No test starts the network: before any library is imported, the hub is switched off. Tests of the
hub run commands in processes of their own, against a stand-in on loopback. The exception is
tests/real, which installs packages from PyPI, and only where the environment asks for it.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

#: Of the whole suite on two cores; the long forms come on top.
MINUTES, LONG_MINUTES = 14, 30
#: Seconds that a test marked `long` may take, fixtures included.
LONG_SECONDS = 3600
#: Paths below tests/ whose tests `nox -s test-fast` leaves out: whole commands in processes of
#: their own, models on disk, and the long tables of the grader. A test that takes more than a few
#: seconds belongs here.
SLOW = (
    "backends",
    "fuzz",
    "parity",
    "unit/comparison/test_jobs.py",
    "unit/comparison/test_supervisor.py",
    "unit/embedded/test_model.py",
    "unit/evaluation/test_killed_evaluation.py",
    "unit/grading/test_causes.py",
    "unit/grading/test_compare.py",
    "unit/grading/test_generated.py",
    "unit/test_hub.py",
    "unit/test_python_api.py",
)
#: Values of a backend's parameter, and the marker that they bring.
BACKEND_MARKERS = {"mlx": "mlx", "cuda": "gpu"}
ROOT = Path(__file__).parent
#: In the environment of every process that a test starts, and of those that they start.
SESSION = "OPSD_TEST_SESSION"

# A busy machine makes an example slow, which says nothing about the code.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="run the long forms of fuzzers and kill tests too"
    )


def pytest_report_header(config: pytest.Config) -> str:
    minutes = MINUTES + (LONG_MINUTES if config.getoption("--long") else 0)
    more = "" if config.getoption("--long") else "; --long adds the long forms"
    return f"opsd: the whole suite takes about {minutes} minutes on two cores{more}"


def markers_of(path: str, parameters: Iterable[object], long: bool) -> set[str]:
    """The markers of a test, by its file's path below tests/ and its parameters' values."""
    names = [value for value in parameters if isinstance(value, str)]
    found = {BACKEND_MARKERS[name] for name in names if name in BACKEND_MARKERS}
    if path.startswith("backends/mlx/"):
        found.add("mlx")
    if path == "backends/vllm/test_real.py" or path.startswith("real/"):
        found.add("real")
    if long or "real" in found or any(path == slow or path.startswith(f"{slow}/") for slow in SLOW):
        found.add("slow")
    return found


# First of all hooks, since pytest's own selects by `-m` here too.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="a long form: run with --long")
    for item in items:
        long = "long" in item.keywords
        path = item.path.relative_to(ROOT).as_posix()
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        for name in markers_of(path, parameters, long):
            item.add_marker(name)
        if long:
            item.add_marker(pytest.mark.timeout(LONG_SECONDS))
        if long and not config.getoption("--long"):
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Why tests were skipped, a line a reason: `-rs` has a line for every place."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
    )
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped {count}: {reason}")


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    """End what the tests of this process started and left at work, whoever adopted it."""
    os.environ[SESSION] = mark = uuid.uuid4().hex
    yield
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(SESSION) == mark:
                process.kill()
        except psutil.Error:
            continue
