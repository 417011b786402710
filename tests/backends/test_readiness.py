"""A dry run refuses what the run would refuse, in the same words, on every backend."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.interface import Backend
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError, OpsdError
from opsd_cli.planning.readiness import require_ready
from opsd_cli.tracking.listener import Listener
from tests.support.backend_fixtures import LORA
from tests.support.bad_input import POINTER


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text(POINTER)


def cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def pointer_for_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(POINTER)


@pytest.fixture
def copy(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder("qwen3"), tmp_path / "model"))


def said(work: Callable[[], object]) -> OpsdError:
    with pytest.raises(ModelError) as caught:
        work()
    return caught.value


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_tokenizer, "has no tokenizer"),
        (pointer, "is a Git LFS pointer"),
        (cut_off, "its size is not what its header says"),
        (pointer_for_the_tokenizer, "is a Git LFS pointer"),
        (shutil.rmtree, "no model folder"),
    ],
)
def test_dry_run_refuses_a_damaged_model_as_loading_does(
    backend: Backend, copy: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(copy)
    config = Config(model=str(copy), lora=LORA)
    ours = said(lambda: require_ready(config, Listener(), learns=True))
    theirs = said(lambda: backend.load(config, True))
    assert words in ours.message
    assert (ours.message, ours.hint) == (theirs.message, theirs.hint)


@pytest.mark.parametrize("targets", [("q_proj", "query"), ("embed_tokens",), ()])
def test_dry_run_refuses_lora_targets_as_loading_does(
    backend: Backend, copy: Path, targets: tuple[str, ...]
) -> None:
    config = Config(model=str(copy), lora={"targets": targets})
    ours = said(lambda: require_ready(config, Listener(), learns=True))
    theirs = said(lambda: backend.load(config, True))
    assert ours.message == theirs.message
    layers = [set(error.hint.partition(" are ")[2].split(", ")) for error in (ours, theirs)]
    assert layers[0] == layers[1] != set()
    require_ready(config, Listener(), learns=False)  # an evaluation has no adapter to make


def test_dry_run_takes_a_whole_model(backend: Backend, copy: Path) -> None:
    require_ready(Config(model=str(copy), lora=LORA), Listener(), learns=True)
