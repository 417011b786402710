"""Handlers of signals: set within a block alone, and in the main thread alone."""

from __future__ import annotations

import os
import signal
import threading

from opsd_cli.interruption import signals_handled


def test_signals_are_handled_within_the_block_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[int] = []
    with signals_handled(lambda number, _: seen.append(number)):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert sorted(seen) == [signal.SIGINT, signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_signal_is_handled_outside_the_main_thread() -> None:
    before, within = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with signals_handled(lambda number, _: None):
            within.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert within == [before]
