"""Chat templates rendered within limits of time and memory, by `template_worker`.

One worker serves a process: it is started when the first template is rendered, and ends with the
pipe that it reads from. A template that exceeds its time ends the worker, and the next render
starts another.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd_cli.errors import OpsdError

#: Seconds of CPU time, so that a busy machine does not count. A large prompt takes milliseconds.
SECONDS = 5.0
_WORKER = Path(__file__).with_name("template_worker.py")


class TemplateFailed(Exception):
    """A template failed or refused the messages; the message is one line."""


class TemplateExceeds(TemplateFailed):
    """A template used more time, memory or text than any prompt needs."""


class _Worker:
    """The worker process, which answers one request at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: Mapping[str, Any]) -> dict[str, str]:
        """The worker's answer.

        Raises:
            TemplateExceeds: the request ended the worker.
        """
        line = json.dumps(request, default=str).encode() + b"\n"
        with self._lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
                answer = process.stdout.readline()
            except OSError:
                answer = b""
            except BaseException:  # a late answer would be read as that of the next request
                self.stop()
                raise
            if not answer.endswith(b"\n"):
                self.stop()
                raise TemplateExceeds(f"it was still at work after {request['seconds']:g} seconds")
        found: dict[str, str] = json.loads(answer)
        return found

    def _running(self) -> subprocess.Popen[bytes]:
        """The process; a new one if there is none, or if it belongs to the parent process."""
        process = self._process
        if process is not None and self._owner == os.getpid() and process.poll() is None:
            return process
        process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us; it ends when we do
        )
        assert process.stdout is not None and process.stderr is not None
        if process.stdout.readline() != b"ready\n":
            process.kill()
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
            raise OpsdError(
                f"the process that renders chat templates did not start: {(said or ['?'])[-1]}",
                "check the installation: opsd doctor",
            )
        self._process, self._owner = process, os.getpid()
        return process

    def stop(self) -> None:
        """End the process, unless it belongs to the parent process."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


_worker = _Worker()
atexit.register(_worker.stop)


def render(
    template: str,
    messages: Sequence[Mapping[str, str]],
    generation_prompt: bool,
    arguments: Mapping[str, Any],
) -> str:
    """The text of a conversation, by its chat template.

    Args:
        template: Jinja source.
        messages: role and content each.
        generation_prompt: whether an assistant's turn is opened at the end.
        arguments: the template's other variables.

    Raises:
        TemplateFailed: it refuses or fails.
        TemplateExceeds: it takes too much time or memory.
    """
    answer = _worker.ask(
        {
            "template": template,
            "messages": [dict(message) for message in messages],
            "generation_prompt": generation_prompt,
            "arguments": dict(arguments),
            "seconds": SECONDS,
        }
    )
    if "exceeds" in answer:
        raise TemplateExceeds(answer["exceeds"])
    if "error" in answer:
        raise TemplateFailed(answer["error"])
    return answer["text"]
