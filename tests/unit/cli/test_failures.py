"""What goes wrong outside of opsd ends in one line with its path, a hint and the right code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import backends
from opsd_cli.cli import failures
from opsd_cli.errors import OpsdError, UsageError
from opsd_cli.files.os_errors import naming
from tests.support.cli import QUICK, Opsd, typed

COMMAND = [sys.executable, "-P", "-m", "opsd_cli"]
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


def raised(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENOSPC, "x", "a/b"), 1, "no space left on the disk to write a/b"),
        (OSError(errno.EDQUOT, "x", "a/b"), 1, "the disk quota is used up: cannot write a/b"),
        (OSError(errno.EROFS, "x", "a/b"), 2, "cannot write a/b: the file system is read-only"),
        (PermissionError(errno.EACCES, "x", "a/b"), 2, "no permission for a/b"),
        (OSError(errno.EMFILE, "x", "a/b"), 1, "too many files are open"),
        (OSError(errno.ENAMETOOLONG, "x", "a" * 999), 2, "the name is too long: aaa"),
        (FileNotFoundError(errno.ENOENT, "x", b"a/\xff"), 2, r"there is no a/\udcff"),
        (NotADirectoryError(errno.ENOTDIR, "x", "a/b"), 2, "a part of a/b is a file"),
        (OSError(errno.EIO, "x"), 1, "the disk failed at a file"),
        (OSError(errno.ENXIO, "No such device", "a"), 1, "no such device: a"),
        (OSError(errno.ENOMEM, "x"), 1, "memory is exhausted"),
        (OSError("a library's own words"), 1, "a library's own words"),
        (MemoryError(), 1, "memory is exhausted"),
        (RecursionError("x"), 2, "nested too deeply"),
        (UnicodeDecodeError("utf-8", b"ab\xff", 2, 3, "x"), 2, "is not UTF-8: byte 0xff"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "x"), 2, "text that cannot be written"),
        (RuntimeError("Could not determine home directory."), 2, "begins with ~"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "broken pipe"),
        (KeyError("a true mistake"), 1, "unexpected KeyError: 'a true mistake'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_system_error_is_one_line(
    error: BaseException,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("opsd_cli.cli.doctor.run", raised(error))
    monkeypatch.setattr(failures, "reader_left", lambda: False)
    assert typed("doctor", monkeypatch) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("hint: ")
    assert says in lines[0]
    assert len(lines[0]) < 300


def test_safetensors_error_names_the_full_disk(tmp_path: Path) -> None:
    class SafetensorError(Exception):
        pass

    message = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OSError) as caught, naming(tmp_path / "model"):
        raise SafetensorError(message)
    known = failures.explained(caught.value)
    assert known is not None and f"to write {tmp_path / 'model'}" in known.message
    assert failures.explained(SafetensorError(message)) is not None
    with pytest.raises(SafetensorError), naming(tmp_path):
        raise SafetensorError("a header that is too large")


def test_naming_keeps_a_known_path(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, naming(tmp_path):
        (tmp_path / "no" / "file").read_text()
    assert caught.value.filename == str(tmp_path / "no" / "file")


@needs_full
@pytest.mark.parametrize("command", ["presets", "presets keys", "doctor --json", "data"])
def test_full_disk_behind_standard_output(command: str) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*COMMAND, *command.split()], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[0] == (
        "error: no space left on the disk to write standard output"
    )
    assert len(ended.stderr.splitlines()) == 2, ended.stderr


@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
@pytest.mark.parametrize(
    "command", ["presets keys", "presets --json", "sample --help", "--help", "--version"]
)
def test_broken_pipe_of_a_reader_exits_with_0(command: str) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [*COMMAND, *command.split()], stdout=write, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_arguments_of_invalid_utf8_are_refused_first(
    opsd: Opsd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("opsd_cli.cli.train.run", raised(AssertionError("it began")))
    for command in ("train --out bad\udcff", "train --set data.train=\ud800.csv", "tr\udcffin"):
        code, out, err = opsd(command)
        assert (code, out) == (2, "")
        assert "is not valid UTF-8" in err and len(err.splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["good.jsonl"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_invalid_utf8_is_an_error_line_of_a_real_process(tmp_path: Path) -> None:
    ended = subprocess.run(
        [os.fsencode(part) for part in (*COMMAND, "train", "--out")] + [b"bad\xff"],
        capture_output=True,
        cwd=tmp_path,
    )
    assert ended.returncode == 2 and ended.stdout == b""
    assert ended.stderr.startswith(b"error: the argument 'bad\\udcff' is not valid UTF-8")
    assert not list(tmp_path.iterdir())


def test_json_on_an_ascii_terminal_is_escaped() -> None:
    ended = subprocess.run(
        [*COMMAND, "data", "--json"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert ended.returncode == 0, ended.stderr
    import json

    from opsd_cli.problems.catalog import BENCHMARKS

    assert list(json.loads(ended.stdout)["benchmarks"]) == list(BENCHMARKS)


def test_error_line_is_one_printable_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = UsageError("a\x1b[31m name\nwith \u202e lines\r\n" + "x" * 9999, "hint\n\nof two")
    monkeypatch.setattr("opsd_cli.cli.doctor.run", raised(error))
    assert typed("doctor", monkeypatch) == 2
    said, hint = capsys.readouterr().err.splitlines()
    assert said.startswith(r"error: a\x1b[31m name with \u202e lines xxx") and len(said) < 1100
    assert hint == "hint: hint of two"


def test_read_only_run_is_an_error_line(
    opsd: Opsd,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert opsd(f"train --out run --set data.train=good.jsonl {QUICK}")[0] == 0
    assert opsd("eval --benchmark good.jsonl --out e --limit 3")[0] == 0
    usual = Path.open

    def read_only(self: Path, mode: str = "r", *rest: object, **more: object) -> object:
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return usual(self, mode, *rest, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", read_only)
    for command in ("train --resume --out run", "eval --resume --out e --samples 3"):
        code, _, err = opsd(command)
        said = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code in (1, 2) and len(said) == 1, err
        assert "ead-only file system" in said[0] or "read-only" in said[0]
        assert "run" in said[0] or " e" in said[0]


def test_regrade_needs_no_backend_no_model_and_no_adapter(
    opsd: Opsd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert opsd(f"train --out run --set data.train=good.jsonl {QUICK}")[0] == 0
    assert opsd("eval --adapter run --benchmark good.jsonl --out e --limit 5")[0] == 0
    (tmp_path / "run").rename(tmp_path / "moved")
    for name in backends.BACKENDS:
        monkeypatch.setitem(backends.BACKENDS, name, "not_installed_anywhere:Backend")
    code, out, err = opsd("eval --regrade --out e")
    assert code == 0, err
    assert "graded 5 samples again: 0 changed" in out
    assert opsd("eval --resume --out e --samples 9")[0] == 3
    code, _, err = opsd("eval --regrade --out e --model other")
    assert code == 2 and "was made with other settings: model" in err


def test_dry_run_without_any_backend(
    opsd: Opsd,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(backends.BACKENDS, "cpu", "backends.pytorch.backend:CpuBackend")
    for package in ("torch", "mlx.core"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    code, out, err = opsd("train --dry-run")
    assert code == 0, err
    assert "memory on cpu" in out or "memory on mlx" in out
    assert "planned for" in err and "peak" in out
    code, _, err = opsd("train")
    assert code == 3 and "no backend can run here" in err


def test_opsd_errors_pass_unchanged() -> None:
    error = OpsdError("a", "b")
    assert failures.explained(error) is error
    assert failures.explained(KeyError("x")) is None


@pytest.mark.parametrize("terminal", [True, False])
def test_error_and_hint_wrap_between_words_on_a_terminal_alone(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    message, hint = "a problem [of many] words " * 6, "a remedy of many words " * 6
    failures.tell(message.strip(), hint.strip())
    err = capsys.readouterr().err
    assert err.split() == f"error: {message} hint: {hint}".split()
    assert (max(map(len, err.splitlines())) <= 40) == terminal
    if not terminal:
        assert len(err.splitlines()) == 2
