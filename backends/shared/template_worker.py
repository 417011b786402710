"""Renders chat templates in a process of its own: `python -P template_worker.py`, JSON lines.

A template is a program that came with a model. Jinja's sandbox keeps it from files and from
Python's internals, but not from running for ever or asking for all memory, and nothing within a
process can stop one long operation. So it runs here, where the system limits its time and memory:
when they are used up this process ends, and the parent reports it.

No module of this package is imported: the file is run by its path, so that no other package can
replace one.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from datetime import datetime
from typing import Any

#: The date in every prompt: the default of Llama 3's own template.
TODAY = (2024, 7, 26)
MEMORY_BYTES = 4 * 2**30
MOST_CHARACTERS = 16 * 2**20


class StoppedClock(datetime):
    """A clock that always gives `TODAY`: a prompt that changes at midnight cannot be resumed,
    compared or cached."""

    @classmethod
    def now(cls, tz: Any = None) -> StoppedClock:
        return cls(*TODAY)


def limit_memory() -> None:
    """Limit this process's address space, if the system allows it; macOS does not."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def limit_time(seconds: float) -> None:
    """End this process after this many seconds of its CPU time; 0 lifts the limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def answer(request: dict[str, Any]) -> dict[str, str]:
    """The rendered text (`text`), or why there is none (`exceeds`, `error`)."""
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
