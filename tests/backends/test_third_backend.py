"""A backend from outside the tree: one folder and one registry line make it work everywhere."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import backends
from backends.rollout_engines import ENGINES
from opsd_cli.cli.app import main
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError

ROOT = Path(__file__).parents[2]
NAME = "abacus"
LINE = "abacus_backend.backend:AbacusBackend"
#: The whole backend: its traits, its capability and how it loads a policy.
SOURCE = """
from backends.interface import Capability
from backends.traits import BackendTraits, MemoryTraits


class AbacusBackend:
    name = "abacus"
    traits = BackendTraits(
        extra="abacus",
        preference=99,
        on_cpu=True,
        memory=MemoryTraits(
            chunk_bytes=2**20, chunk_copies=1, hidden=1, intermediate=1, heads=1, scores=0,
            transient_blocks=1, recomputed_blocks=1, boundary=1, length_multiple=8,
        ),
    )

    def capability(self):
        try:
            import abacus_framework
        except ImportError:
            return Capability(False, "abacus is missing", self.traits.install_command)
        return Capability(True, "an abacus of 13 rods", memory=2**33)

    def load(self, config, trainable):
        from tests.support.fakes import FakePolicy

        return FakePolicy(skill=0.2, gain=0.2)
"""
#: A rollout engine with weights of its own, in name only.
ENGINE_SOURCE = """
import contextlib


class BeadsEngine:
    title = "Beads"
    separate_from_trainer = True

    def require(self, config):
        pass

    @contextlib.contextmanager
    def attached(self, config, policy, folder, tell):
        yield policy
        tell("beads are detached")
"""
QUICK = (
    "--set train.steps=2 --set train.evaluate_every=2 --set train.questions_per_step=4 "
    "--set data.validation_problems=8 --set data.test_problems=8 --set preflight.enabled=false"
)

Opsd = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The backend's package, importable, with its framework beside it."""
    package = tmp_path / "site" / "abacus_backend"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "backend.py").write_text(SOURCE)
    (package.parent / "abacus_framework.py").touch()
    monkeypatch.syspath_prepend(package.parent)
    importlib.invalidate_caches()
    yield package.parent
    for module in [name for name in sys.modules if name.startswith("abacus_")]:
        del sys.modules[module]


@pytest.fixture
def opsd(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Opsd:
    """Type a command in an empty folder with the backend registered."""
    monkeypatch.setitem(backends.BACKENDS, NAME, LINE)  # the one line
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def typed(command: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["opsd", *shlex.split(command)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return typed


def test_doctor_reports_a_third_backend(opsd: Opsd) -> None:
    code, out, err = opsd("doctor --json")
    assert code == 0, err
    found = json.loads(out)
    assert found["backends"][NAME]["detail"] == "an abacus of 13 rods"
    assert list(found["backends"]) == list(backends.BACKENDS)
    assert found["auto"]["name"] == NAME  # it declares the highest preference
    assert f"  {NAME}  yes  an abacus of 13 rods" in opsd("doctor")[1]


def test_train_runs_on_a_third_backend(opsd: Opsd, tmp_path: Path) -> None:
    code, out, err = opsd(f"train --json --out run --backend {NAME} {QUICK}")
    assert code == 0, err
    result = json.loads(out)
    assert result["backend"] == NAME and result["steps"] == 2
    assert f"backend {NAME}: an abacus of 13 rods (named by --backend or the config)" in err
    assert f"backend: {NAME}\n" in (tmp_path / "work/run/config.yaml").read_text()
    code, _, err = opsd("eval --adapter run --limit 3 --out e")
    named = "named by the run's config, "
    assert code == 0 and f"backend {NAME}: an abacus of 13 rods ({named}" in " ".join(err.split())


def test_a_memory_plan_for_a_third_backend_uses_its_traits(opsd: Opsd) -> None:
    code, out, err = opsd(f"train --dry-run --backend {NAME}")
    assert code == 0, err
    assert f"memory on {NAME}" in out and "fits in 8.00 GiB" in out
    sizes = {}
    for name in (NAME, "cpu"):
        code, out, err = opsd(f"train --dry-run --json --backend {name}")
        assert code == 0, err
        sizes[name] = json.loads(out)["memory"]["parts"]
    assert sizes[NAME]["weights"] == sizes["cpu"]["weights"]
    assert 0 < sizes[NAME]["activations"] < sizes["cpu"]["activations"]
    assert 0 < sizes[NAME]["divergence"] < sizes["cpu"]["divergence"]


def test_a_third_backend_whose_framework_is_missing(opsd: Opsd, folder: Path) -> None:
    (folder / "abacus_framework.py").unlink()
    code, _, err = opsd(f"train --backend {NAME}")
    assert code == 3 and "backend 'abacus' cannot run here: abacus is missing" in err
    assert "hint: pip install 'opsd-cli[abacus]'" in err
    code, out, err = opsd(f"train --dry-run --backend {NAME}")
    assert code == 0 and "planned for one that has it" in err
    assert f"memory on {NAME}" in out and "peak" in out


def test_config_and_schema_take_a_third_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'auto', 'mlx', 'cuda' or 'cpu', got 'abacus'"):
        resolve(None, [f"backend={NAME}"])
    monkeypatch.setitem(backends.BACKENDS, NAME, LINE)
    assert resolve(None, [f"backend={NAME}"]).backend == NAME
    with pytest.raises(ConfigError, match="'mlx', 'cuda', 'cpu' or 'abacus', got 'tpu'"):
        resolve(None, ["backend=tpu"])
    schema: Any = Config.model_json_schema()["properties"]["backend"]
    assert schema["enum"] == [backends.AUTO, *backends.BACKENDS]


def test_help_lists_a_third_backend() -> None:
    script = (
        f"import backends, sys\nbackends.BACKENDS[{NAME!r}] = {LINE!r}\n"
        "sys.argv = ['opsd', 'train', '--help']\nfrom opsd_cli.cli.app import main\nmain()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert f"auto|mlx|cuda|cpu|{NAME}" in run.stdout


def test_train_uses_a_rollout_engine_from_outside_the_tree(
    opsd: Opsd, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "abacus_engine.py").write_text(ENGINE_SOURCE)
    monkeypatch.setitem(ENGINES, "beads", "abacus_engine:BeadsEngine")  # the one line
    command = f"train --backend {NAME} --set rollouts.engine=beads {QUICK}"
    code, out, err = opsd(f"{command} --out run --json --set rollouts.importance_cap=2")
    assert code == 0, err
    assert "waiting for Beads" in err and "beads are detached" in err
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert all("sampler_gap" in row for row in rows)  # as of any separate engine
    code, out, err = opsd(f"{command} --dry-run --json")
    assert code == 0 and json.loads(out)["plan"]["scored_tokens_at_most"] > 0
    code, _, err = opsd("train --set rollouts.engine=strings")
    assert code == 2 and "input should be 'builtin', 'vllm' or 'beads', got 'strings'" in err


def test_no_other_list_of_backends_or_engines_exists() -> None:
    """No module compares a value with a registered name or holds several of them."""
    found = []
    for path in sorted([*ROOT.glob("opsd_cli/**/*.py"), *ROOT.glob("backends/*.py")]):
        for line in _uses_of_names(ast.parse(path.read_text())):
            found.append(f"{path.relative_to(ROOT)}:{line}")
    registries = ("backends/__init__.py:", "backends/rollout_engines.py:")
    assert [place for place in found if not place.startswith(registries)] == []
    assert found  # the registry itself is seen


def _uses_of_names(tree: ast.Module) -> Iterator[int]:
    """Lines with a comparison with a registered name, or a collection of two or more of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            # The formats of `opsd export` include "mlx", which is no backend there.
            own = isinstance(node.left, ast.Name) and node.left.id == "form"
            names = _names([node.left, *node.comparators], {*backends.BACKENDS, *ENGINES})
            if names and not own:
                yield node.lineno
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            if len(_names(node.elts, set(backends.BACKENDS))) > 1:
                yield node.lineno
        elif isinstance(node, ast.Dict) and len(_names(node.keys, set(backends.BACKENDS))) > 1:
            yield node.lineno


def _names(nodes: list[Any], known: set[str]) -> set[str]:
    values = {node.value for node in nodes if isinstance(node, ast.Constant)}
    return {value for value in values if isinstance(value, str)} & known
