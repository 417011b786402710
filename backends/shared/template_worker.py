"""Renders chat templates in a process of its own: `python -P template_worker.py`, JSON lines.

A template is a program that came with a model. Jinja's sandbox keeps it from files and from
Python's internals, not from running for ever or asking for all memory, and nothing within a process
can stop one long operation. So it runs here, where its time and memory are limited by the system:
when they are used up this process ends, and the parent says so.

Nothing of ours is imported: the file is run by its path, so that no package on the way can stand in
for one of ours.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from datetime import datetime
from typing import Any

#: The day on which every prompt is written: the one that Llama 3's own template falls back to.
TODAY = (2024, 7, 26)
MEMORY_BYTES = 4 * 2**30
MOST_CHARACTERS = 16 * 2**20


class StoppedClock(datetime):
    """A prompt that changes at midnight cannot be resumed, compared or cached."""

    @classmethod
    def now(cls, tz: Any = None) -> StoppedClock:
        return cls(*TODAY)


def limit_memory() -> None:
    """Where the system lets it be limited: macOS does not."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def limit_time(seconds: float) -> None:
    """End this process after so many seconds of its own computing; 0 lifts the limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def answer(request: dict[str, Any]) -> dict[str, str]:
    """What the template makes of the messages, or why it makes nothing."""
    from transformers.utils.chat_template_utils import render_jinja_template

    limit_time(request["seconds"])
    try:
        rendered = render_jinja_template(
            conversations=[request["messages"]],
            chat_template=request["template"],
            add_generation_prompt=request["generation_prompt"],
            **request["arguments"],
        )[0][0]
        if len(rendered) > MOST_CHARACTERS:
            return {"exceeds": f"it writes {len(rendered):,} characters"}
        return {"text": rendered}
    except MemoryError:
        return {"exceeds": f"it asks for more than {MEMORY_BYTES // 2**30} GiB of memory"}
    except RecursionError:
        return {"exceeds": "it calls itself too often"}
    except Exception as error:
        return {"error": " ".join(str(error).split())[:500] or type(error).__name__}
    finally:
        limit_time(0)


def main() -> None:
    import transformers.utils.chat_template_utils as utils

    utils.datetime = StoppedClock
    limit_memory()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
