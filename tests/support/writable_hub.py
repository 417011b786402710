"""A stand-in for the Hugging Face hub that takes uploads, on loopback.

    with WritableHub(root, token="secret") as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "secret"}

Only the requests of creating a repository and of one commit are answered; the server asks for
every file to be sent within the commit. `private` has each repository's visibility, `files` what
was uploaded.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from tests.support.loopback_server import LoopbackServer, SilentHandler

COMMIT = "0" * 40
REPOSITORY = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit)/main)?")


class WritableHub(LoopbackServer):
    """Takes uploads until the `with` block ends.

    Args:
        token: the one that it accepts.
        taken: repositories that exist.
        breaks: whether each commit fails.
    """

    def __init__(self, token: str, taken: tuple[str, ...] = (), breaks: bool = False) -> None:
        super().__init__(_Handler)
        self.token = token
        self.breaks = breaks
        self.private: dict[str, bool] = dict.fromkeys(taken, False)
        self.files: dict[str, dict[str, bytes]] = {}


class _Handler(SilentHandler):
    owner: WritableHub

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, sent: bytes) -> None:
        owner, path = self.owner, self.path.partition("?")[0]
        owner.requests.append(f"{self.command} {path}")
        match = REPOSITORY.fullmatch(path)
        if self.headers.get("Authorization") != f"Bearer {owner.token}":
            self._send(401, {"error": "Invalid username or password."})
        elif path == "/api/whoami-v2":
            self._send(200, {"name": "me", "type": "user", "orgs": []})
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(sent))
        elif match is None:
            self._send(404, {"error": "no such page"})
        elif match[1] not in owner.private:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif match[2] == "preupload":
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(sent)["files"]
            ]
            self._send(200, {"files": files})
        elif match[2] == "commit":
            self._commit(match[1], sent)
        else:
            self._send(200, {"id": match[1], "sha": COMMIT, "siblings": [], "tags": []})

    def _create(self, asked: Mapping[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "me":
            self._send(403, {"error": "You don't have the rights to create a model there"})
            return
        visibility = asked.get("visibility")
        self.owner.private[name] = asked.get("private", False) or visibility == "private"
        self._send(200, {"url": f"{self.owner.url}/{name}", "id": name, "name": name})

    def _commit(self, name: str, sent: bytes) -> None:
        if self.owner.breaks:
            self._send(400, {"error": "no room left"})
            return
        rows = [json.loads(line) for line in sent.splitlines() if line.strip()]
        self.owner.files[name] = {
            row["value"]["path"]: base64.b64decode(row["value"]["content"])
            for row in rows
            if row["key"] == "file"
        }
        url = f"{self.owner.url}/{name}/commit/{COMMIT}"
        self._send(200, {"success": True, "commitUrl": url, "commitOid": COMMIT})

    def _send(self, status: int, value: Any, headers: Mapping[str, str] = {}) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {**headers, "Content-Type": "application/json"}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
