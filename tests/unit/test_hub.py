"""Models and data by hub id, from a stand-in hub on loopback, and then offline.

Each command runs in a process of its own, because `HF_ENDPOINT` and `HF_HOME` are
read when the libraries are imported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.embedded import MODEL_DIR
from opsd_cli.problems.sources import embedded
from opsd_cli.processes.child_processes import tied
from tests.support.backend_fixtures import require_backend
from tests.support.stand_in_hub import StandInHub

QUICK = (
    "--set train.steps=1 --set train.questions_per_step=2 --set train.evaluate_every=1 "
    "--set train.passes=1 --set train.patience=null --set lora.rank=2 "
    "--set sampling.max_new_tokens=12 --set preflight.enabled=false "
    "--set data.validation_problems=2 --set data.test_problems=2"
)
MODEL, DATA, GATED = "made/tiny", "made/sums", "made/gated"


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@dataclass
class Session:
    """Runs commands with a hub and a cache of their own."""

    hub: StandInHub
    home: Path
    folder: Path

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HF_", "TRANSFORMERS_")) and "proxy" not in key.lower()
        }
        variables = {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.home),
            # The machine may be busy.
            "HF_HUB_ETAG_TIMEOUT": "600",
            "HF_HUB_DOWNLOAD_TIMEOUT": "600",
            "MLX_DISABLE_COMPILE": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "opsd_cli"]
        for word in words:
            command += word.split()
        return subprocess.run(
            command,
            cwd=self.folder,
            **tied(inherited | variables | environment),
            capture_output=True,
            text=True,
        )

    def json(self, *words: str, **environment: str) -> Mapping[str, Any]:
        """Run a command that must succeed; returns the object that it prints."""
        done = self.run(*words, "--json", **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, *words: str, **environment: str) -> str:
        """Run a command that must end with exit code 2; returns its standard error."""
        done = self.run(*words, **environment)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInHub]:
    root = tmp_path_factory.mktemp("hub")
    for name in (MODEL, GATED):
        shutil.copytree(MODEL_DIR, root / "models" / name)
    sets = root / "datasets"
    for split in ("train", "test"):
        rows = [
            {"problem": p.question, "solution": p.solution, "final": p.answer, "level": n % 2}
            for n, p in enumerate(embedded("train" if split == "train" else "test", 24).problems)
        ]
        write_parquet(sets / DATA / "data" / f"{split}-00000-of-00001.parquet", rows)
        write_parquet(sets / "made/parts" / "main" / f"{split}-00000-of-00001.parquet", rows[:3])
        write_parquet(sets / "made/parts" / "other" / f"{split}-00000-of-00001.parquet", rows[3:])
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {part}\n  data_files:\n"
        + "".join(f"  - {{split: {s}, path: {part}/{s}-*}}\n" for s in ("train", "test"))
        for part in ("main", "other")
    )
    (sets / "made/parts" / "README.md").write_text(card + "---\n")
    code = root / "models" / "made/code"
    shutil.copytree(MODEL_DIR, code)
    settings = json.loads((code / "config.json").read_text())
    settings["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}
    (code / "config.json").write_text(json.dumps(settings | {"model_type": "own_kind"}))
    (code / "own.py").write_text("open('i_ran', 'w')\n")
    with StandInHub(root, gated=(GATED,)) as served:
        yield served


@pytest.fixture
def session(hub: StandInHub, tmp_path: Path) -> Session:
    return Session(hub, tmp_path / "hf", tmp_path)


COLUMNS = "--set data.columns.answer=final"


@pytest.mark.parametrize("backend", ["cpu", "mlx"])
def test_hub_ids_work_online_and_then_offline_from_the_cache(
    session: Session, backend: str
) -> None:
    require_backend(backend)
    common = f"--backend {backend} --model {MODEL}"
    data = f"--set data.train={DATA} --set data.test={DATA} {COLUMNS}"
    trained = session.json(f"train {common} {data} {QUICK} --out online-run")
    environment = json.loads((session.folder / "online-run/environment.json").read_text())
    assert environment["data"]["train"]["revision"] == session.hub.commit("datasets", DATA)
    assert environment["model_commit"] == session.hub.commit("models", MODEL)
    evaluation = f"eval --adapter online-run --backend {backend} --benchmark {DATA}:test"
    measured = session.json(f"{evaluation} --limit 2 --out online")
    assert measured["commit"] == session.hub.commit("models", MODEL)
    assert measured["benchmarks"][f"{DATA}:test"]["revision"] == session.hub.commit(
        "datasets", DATA
    )
    # Again from the cache: with an unreachable hub, and in offline mode.
    asked = len(session.hub.requests)
    unreached = session.json(
        f"{evaluation} --limit 2 --out unreached", HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert unreached["benchmarks"] == measured["benchmarks"]
    assert unreached["commit"] == measured["commit"]
    again = session.json(f"train {common} {data} {QUICK} --out run", HF_HUB_OFFLINE="1")
    assert again["accuracy"] == trained["accuracy"]
    assert len(session.hub.requests) == asked


def test_hub_data_set_by_subset_split_and_revision(session: Session) -> None:
    plan = f"eval --model {MODEL} {COLUMNS} --dry-run --benchmark"
    whole = session.json(f"{plan} made/parts:other:train")
    assert whole["plan"]["made/parts:other:train"]["problems"] == 21
    commit = session.hub.commit("datasets", DATA)
    assert session.json(f"{plan} {DATA}@{commit}")["plan"][f"{DATA}@{commit}"]["problems"] == 24
    said = session.refused(f"{plan} made/parts")
    assert "has several subsets: main, other" in said and "made/parts:main:" in said
    said = session.refused(f"{plan} made/parts:mian:test")
    assert "no subset 'mian'; it has main, other" in said
    said = session.refused(f"{plan} {DATA}:tset")
    assert "no split 'tset'; it has train, test" in said
    assert "no such revision" in session.refused(f"{plan} {DATA}@nowhere")


def test_hub_offline_refuses_a_revision_that_is_not_cached(session: Session) -> None:
    plan = f"eval {COLUMNS} --dry-run --benchmark"
    session.json(f"{plan} {DATA}")
    commit = session.hub.commit("datasets", DATA)
    session.json(f"{plan} {DATA}@{commit}", HF_HUB_OFFLINE="1")
    said = session.refused(f"{plan} {DATA}@{'0' * 40}", HF_HUB_OFFLINE="1")
    assert f"cached at revision {commit[:12]}, not at 000000000000" in said


def test_hub_errors_are_one_line(session: Session) -> None:
    limit = "--benchmark embedded --limit 1 --set sampling.max_new_tokens=2"
    said = session.refused(f"eval --model {GATED} {limit}")
    assert f"{GATED} is gated" in said and "hf auth login" in said
    assert f"{session.hub.url}/{GATED}" in said
    assert "no model made/nothing on the hub" in session.refused(
        f"eval --model made/nothing {limit}"
    )
    said = session.refused("eval --benchmark made/nothing --limit 1")
    assert "no data set made/nothing on the hub" in said and "did you mean a file?" in said
    said = session.refused(f"eval --model {MODEL} {limit} --set revision=v9")
    assert f"{MODEL} has no such revision" in said
    said = session.refused(f"eval --model {MODEL} {limit}", HF_HUB_OFFLINE="1")
    assert "not in the cache, and offline mode is on" in said
    said = session.refused(f"eval --benchmark {DATA}", HF_ENDPOINT="http://127.0.0.1:9")
    assert "not in the cache, and the hub cannot be reached" in said


def test_hub_model_code_runs_only_with_trust_remote_code(session: Session) -> None:
    limit = "--benchmark embedded --limit 1 --set sampling.max_new_tokens=2 --backend cpu"
    said = session.refused(f"eval --model made/code {limit}")
    assert "brings model code of its own" in said and "--trust-remote-code" in said
    assert not (session.folder / "i_ran").exists()
    session.run(f"eval --model made/code {limit} --trust-remote-code")
    assert (session.folder / "i_ran").exists()
