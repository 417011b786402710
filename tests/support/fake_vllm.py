"""Stands in for a vLLM server: the part of its API that is used, with faults on request.

As a module it stands for `vllm.entrypoints.openai.api_server`: `interpreter` writes a python
executable that finds it under that name. `OPSD_FAKE_VLLM` holds a JSON object of faults.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STOP = 1


class Faults:
    """Faults by name."""

    def __init__(self, **faults: Any) -> None:
        self.version = faults.get("version", "0.32.0")
        self.dies_after = faults.get("dies_after")  # number of completions
        self.no_ids = faults.get("no_ids", False)
        self.refuses_adapters = faults.get("refuses_adapters", False)
        self.at_start = faults.get("at_start")  # text that it prints before it exits
        self.key = faults.get("key")  # API key that /v1 requires
        self.root = faults.get("root", "embedded")  # the model it serves
        self.metrics = faults.get("metrics")  # answer to /metrics
        self.info = faults.get("info")  # answer to /server_info
        self.cannot_sleep = faults.get("cannot_sleep", False)
        self.ignores_stop = faults.get("ignores_stop", False)
        self.serves_base = faults.get("serves_base", False)  # under each adapter's name
        self.shift = faults.get("shift", 0.0)  # nats, of every score: it has other weights
        self.adapter_shift = faults.get("adapter_shift", 0.0)  # the same, with an adapter alone


class FakeVllm(ThreadingHTTPServer):
    """Completions are the seed's digits as token ids, then a stop token."""

    daemon_threads = True

    def __init__(self, port: int = 0, **faults: Any) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.faults = Faults(**faults)
        self.adapters: dict[str, str] = {}
        #: What an adapter adds to each score, nats, by its name.
        self.effects: dict[str, float] = {}
        self.calls: list[tuple[str, Any]] = []
        self.asleep = False
        #: Every request: method, path, Authorization header.
        self.asked: list[tuple[str, str, str | None]] = []
        #: May answer instead: gets handler, path and body, and returns True if it did.
        self.hostile: Callable[[_Handler, str, Any], bool] | None = None
        #: Completions wait until this is set.
        self.answers = threading.Event()
        self.answers.set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignored: the client has closed the connection."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def completion(seed: int, limit: int) -> list[int]:
    """The completion of a seed: its digits as token ids, then `STOP`, within the limit."""
    length = 1 + seed % 7
    return ([2 + (seed >> n) % 9 for n in range(length)] + [STOP])[:limit]


def base_score(place: int) -> float:
    """The base model's log-probability of a prompt's token at a place."""
    return -2.0 - 0.1 * (place % 5)


def effect(folder: Path) -> float:
    """What the adapter in a folder adds to each log-probability, nats: by `FakePolicy`'s skill."""
    try:
        return float((folder / "adapter_model.safetensors").read_text()) - 0.5
    except (OSError, ValueError):
        return 0.0


def _contains(ids: list[int], stop: list[str]) -> bool:
    """True if the text of these ids, by `FakePolicy`'s tokenizer, contains a stop string."""
    if not stop:
        return False
    from tests.support.small_tokenizers import CharacterTokenizer

    text = CharacterTokenizer().decode(ids)
    return any(string in text for string in stop)


class _Handler(BaseHTTPRequestHandler):
    server: FakeVllm

    def log_message(self, format: str, *values: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        if self._turned_away(None):
            return
        faults = self.server.faults
        answers: dict[str, Any] = {
            "/health": {},
            "/version": {"version": faults.version},
            "/v1/models": {
                "data": [{"id": "base", "parent": None, "root": faults.root}]
                + [{"id": name, "parent": "base"} for name in self.server.adapters]
            },
            "/metrics": faults.metrics,
            "/server_info?config_format=json": faults.info,
        }
        found = answers.get(self.path)
        if found is None:
            self._send(404, {"detail": "Not Found"})
        else:
            self._send(200, found)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        server = self.server
        server.calls.append((self.path, body))
        if self._turned_away(body):
            return
        if self.path == "/v1/load_lora_adapter":
            folder = Path(body["lora_path"])
            if server.faults.refuses_adapters or not (folder / "adapter_config.json").exists():
                self._send(404, {"error": {"message": f"No adapter found for {folder}"}})
                return
            server.adapters[body["lora_name"]] = (folder / "adapter_config.json").read_text()
            server.effects[body["lora_name"]] = effect(folder)
            self._send(200, {})
        elif self.path == "/v1/unload_lora_adapter":
            server.adapters.pop(body["lora_name"], None)
            self._send(200, {})
        elif server.faults.cannot_sleep and self.path.startswith("/sleep"):
            self._send(404, {"detail": "Not Found"})
        elif self.path.startswith("/sleep"):
            server.asleep = True
            self._send(200, {})
        elif self.path == "/wake_up":
            server.asleep = False
            self._send(200, {})
        else:
            self._complete(body)

    def _turned_away(self, body: Any) -> bool:
        """Record the request; True if it was already answered."""
        server = self.server
        given = self.headers.get("Authorization")
        server.asked.append((self.command, self.path, given))
        if server.hostile is not None and server.hostile(self, self.path, body):
            return True
        if (
            server.faults.key
            and self.path.startswith("/v1")
            and given != f"Bearer {server.faults.key}"
        ):
            self._send(401, {"error": "Unauthorized"})
            return True
        return False

    def _complete(self, body: dict[str, Any]) -> None:
        server = self.server
        if body["model"] != "base" and body["model"] not in server.adapters:
            message = f"The model `{body['model']}` does not exist."
            self._send(404, {"error": {"message": message}})
            return
        if "prompt_logprobs" in body:
            self._score(body)
            return
        if server.faults.dies_after is not None:
            server.faults.dies_after -= 1
            if server.faults.dies_after < 0:
                if __name__ == "__main__":
                    os._exit(9)
                self.close_connection = True
                self.connection.close()
                return
        server.answers.wait()
        if server.asleep:
            self._send(400, {"error": {"message": "asleep"}})
            return
        ids = completion(body["seed"], body["max_tokens"])
        stop = [] if server.faults.ignores_stop else body["stop"]
        ended = [n for n in range(1, len(ids) + 1) if _contains(ids[:n], stop)]
        ids = ids[: ended[0]] if ended else ids
        choice: dict[str, Any] = {
            "token_ids": ids,
            "logprobs": {"token_logprobs": [-0.5] * len(ids)},
            "finish_reason": "stop" if ended or ids[-1] == STOP else "length",
        }
        if server.faults.no_ids:
            del choice["token_ids"]
        self._send(200, {"choices": [choice]})

    def _score(self, body: dict[str, Any]) -> None:
        faults = self.server.faults
        adapted = body["model"] in self.server.adapters
        shift = faults.shift + (faults.adapter_shift if adapted else 0.0)
        if adapted and not faults.serves_base:
            shift += self.server.effects[body["model"]]
        scores = [
            {str(t): {"logprob": base_score(n) + shift}} for n, t in enumerate(body["prompt"])
        ]
        self._send(200, {"choices": [{"prompt_logprobs": [None, *scores[1:]]}]})

    def _send(self, status: int, value: Any) -> None:
        text = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def interpreter(folder: Path, **faults: Any) -> Path:
    """Write a python executable whose vLLM is this file.

    With `once` among the faults, they affect the first start only; with `only`, the server that
    has these devices alone.
    """
    package = folder / "site/vllm/entrypoints/openai"
    package.mkdir(parents=True)
    for inside in (package, package.parent, package.parent.parent):
        (inside / "__init__.py").touch()
    (package / "api_server.py").write_text(
        f"import runpy, sys\nsys.argv[0] = {__file__!r}\n"
        f"runpy.run_path({__file__!r}, run_name='__main__')\n"
    )
    python = folder / "python"
    python.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={folder / 'site'}\n"
        f"export OPSD_FAKE_VLLM='{json.dumps({**faults, 'folder': str(folder)})}'\n"
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


def main() -> None:
    faults = json.loads(os.environ["OPSD_FAKE_VLLM"])
    folder = Path(faults.pop("folder"))
    (folder / "command.json").write_text(json.dumps(sys.argv[1:]))
    (folder / "pid").write_text(str(os.getpid()))
    (folder / "key").write_text(os.environ.get("VLLM_API_KEY", ""))
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    (folder / "devices").write_text(devices)
    (folder / f"command-{devices}.json").write_text(json.dumps(sys.argv[1:]))
    with (folder / f"pids-{devices}").open("a") as pids:
        pids.write(f"{os.getpid()}\n")
    only = faults.pop("only", None)  # the devices of the one server that has the faults
    if only is not None and only != devices:
        faults = {}
    started = folder / f"started-{devices}"
    if faults.pop("once", False) and started.exists():
        faults = {}
    started.touch()
    if faults.get("at_start"):
        print(faults["at_start"], flush=True)
        sys.exit(1)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    time.sleep(0.05)
    faults.setdefault("key", os.environ.get("VLLM_API_KEY"))
    faults.setdefault("root", sys.argv[sys.argv.index("--model") + 1])
    FakeVllm(port, **faults).serve_forever()


if __name__ == "__main__":
    main()
