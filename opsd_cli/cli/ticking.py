"""A function that is called every so often while other work is under way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def ticking(tick: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `tick` every so many seconds, in a thread of its own, until the end of the block."""
    ended = threading.Event()

    def work() -> None:
        with contextlib.suppress(OSError):  # nobody reads the output any more
            while not ended.wait(seconds):
                tick()

    thread = threading.Thread(target=work, name="ticking", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
