"""Stands in for the Hugging Face hub: folders served on loopback over the hub's HTTP protocol.

    with StandInHub(root) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": ...}

`root` holds models/ORG/NAME and datasets/ORG/NAME. A repository's commit is a digest of its
contents, so changing a file makes a new revision, and the old one is gone, as after a force-push.
Repositories in `gated` require an accepted licence. `requests` has every request.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.loopback_server import LoopbackServer, SilentHandler

API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(.*))?"
)
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class StandInHub(LoopbackServer):
    """Serves a folder of repositories until the `with` block ends."""

    def __init__(self, root: Path, gated: tuple[str, ...] = ()) -> None:
        super().__init__(_Handler)
        self.root = root
        self.gated = gated

    def folder(self, kind: str, name: str) -> Path:
        """A repository's folder."""
        return self.root / kind / name

    def files(self, kind: str, name: str) -> dict[str, Path]:
        """Files of a repository by their paths inside it."""
        folder = self.folder(kind, name)
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path for path in found}

    def commit(self, kind: str, name: str) -> str:
        """The only commit of a repository."""
        digest = hashlib.sha1(f"{kind}/{name}".encode())
        for inside, path in self.files(kind, name).items():
            digest.update(inside.encode() + path.read_bytes())
        return digest.hexdigest()


class _Handler(SilentHandler):
    owner: StandInHub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        sent = self.rfile.read(size) if size else b""
        path = unquote(urlsplit(self.path).path)
        self.owner.requests.append(f"{self.command} {path}")
        if match := API.fullmatch(path):
            kind, name, what, revision, under = match.groups()
            self._api(kind, name, what, revision, under, sent)
        elif match := FILE.fullmatch(path):
            self._file("datasets" if match[1] else "models", match[2], match[3], match[4])
        else:
            self._refuse(404, "EntryNotFound", "no such page")

    def _found(self, kind: str, name: str, revision: str | None) -> str | None:
        """The requested commit, or None if the request was refused."""
        if not self.owner.folder(kind, name).is_dir():
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
            return None
        if name in self.owner.gated:
            page = f"{self.owner.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
            self._refuse(403, "GatedRepo", f"Access to {page} is restricted: a gated repo.")
            return None
        commit = self.owner.commit(kind, name)
        if revision not in (None, "main", commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit

    def _api(
        self, kind: str, name: str, what: str | None, revision: str | None, under: str, sent: bytes
    ) -> None:
        commit = self._found(kind, name, revision)
        if commit is None:
            return
        files = self.owner.files(kind, name)
        if what in (None, "revision"):
            self._json(
                {
                    "_id": commit[:24], "id": name, "modelId": name, "author": name.split("/")[0],
                    "sha": commit, "private": False, "gated": False, "disabled": False,
                    "downloads": 0, "likes": 0, "tags": [], "library_name": "transformers",
                    "lastModified": "2026-01-01T00:00:00.000Z",
                    "createdAt": "2026-01-01T00:00:00.000Z",
                    "siblings": [{"rfilename": inside} for inside in files],
                }
            )  # fmt: skip
            return
        under = (under or "").strip("/")
        if what == "paths-info":
            wanted = self._paths(sent)
            self._json(
                [_entry(p, files[p]) for p in wanted if p in files]
                + [_directory(p) for p in wanted if p and any(f.startswith(p + "/") for f in files)]
            )
            return
        inside = {p: f for p, f in files.items() if not under or p.startswith(under + "/")}
        if under and not inside:
            self._refuse(404, "EntryNotFound", f"{under} does not exist")
            return
        recursive = "recursive=true" in self.path.lower()
        direct = {p: f for p, f in inside.items() if recursive or "/" not in _rest(p, under)}
        folders = {_parent(p, under) for p in inside if "/" in _rest(p, under)}
        self._json(
            [_directory(p) for p in sorted(folders)] + [_entry(p, f) for p, f in direct.items()]
        )

    def _paths(self, sent: bytes) -> list[str]:
        if "json" in (self.headers.get("Content-Type") or ""):
            paths = json.loads(sent)["paths"]
            return [paths] if isinstance(paths, str) else paths
        return parse_qs(sent.decode()).get("paths", [])

    def _file(self, kind: str, name: str, revision: str, inside: str) -> None:
        commit = self._found(kind, name, revision)
        if commit is None:
            return
        path = self.owner.files(kind, name).get(inside)
        if path is None:
            self._refuse(404, "EntryNotFound", f"{inside} does not exist", commit)
            return
        data, status = path.read_bytes(), 200
        headers = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            start, end = int(asked[1]), int(asked[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
            data, status = data[start : end + 1], 206
        self._send(status, data, "application/octet-stream", headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), "application/json", {})

    def _refuse(self, status: int, code: str, message: str, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        if commit:
            headers["X-Repo-Commit"] = commit
        body = json.dumps({"error": message}).encode()
        self._send(status, body, "application/json", headers)

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(inside: str, path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {
        "type": "file",
        "path": inside,
        "size": len(data),
        "oid": hashlib.sha1(data).hexdigest(),
    }


def _directory(inside: str) -> dict[str, Any]:
    return {"type": "directory", "path": inside, "size": 0, "oid": "0" * 40}


def _rest(inside: str, under: str) -> str:
    return inside[len(under) + 1 :] if under else inside


def _parent(inside: str, under: str) -> str:
    first = _rest(inside, under).split("/")[0]
    return f"{under}/{first}" if under else first
