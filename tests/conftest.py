"""What holds for every test: no network, no leftover process, no clock of Hypothesis.

No test starts the network: before any library is imported, the hub is switched off. Tests of the
hub run commands in processes of their own, against a stand-in on loopback.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import uuid
from collections import Counter
from collections.abc import Iterator

import hypothesis
import psutil
import pytest

#: Of the whole suite, on two cores that do nothing else; the long forms come on top.
MINUTES, LONG_MINUTES = 10, 30
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="a long form: run with --long")
    for item in items:
        if "long" in item.keywords:
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
