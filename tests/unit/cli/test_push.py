"""`opsd export --push`, to a stand-in hub on loopback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from backends.shared import adapter_files
from opsd_cli.hub import reach
from tests.support.cli import Opsd
from tests.support.writable_hub import WritableHub

Connected = Callable[..., None]

TOKEN = "hf_accepted"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A rank-2 adapter of a model on the hub, in the folder `adapter`."""
    layer = "base_model.model.model.layers.3.self_attn.q_proj"
    weights = {
        f"{layer}.lora_A.weight": np.ones((2, 4), np.float32),
        f"{layer}.lora_B.weight": np.ones((6, 2), np.float32),
    }
    settings = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["q_proj"],
        "use_dora": False, "use_rslora": False, "base_model_name_or_path": "org/base",
    }  # fmt: skip
    adapter_files.write_peft(tmp_path / "adapter", weights, settings)
    return tmp_path / "adapter"


@pytest.fixture
def connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connected]:
    """Connects this process to a hub, whose client has read its settings when it was imported."""

    def connect(url: str, **environment: str) -> None:
        for name in list(os.environ):
            if name.startswith(("HF_", "TRANSFORMERS_")) or name.lower().endswith("_proxy"):
                monkeypatch.delenv(name)
        variables = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", **environment}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("opsd_cli.hub._unreachable", False)
        reach.cache_clear()

    yield connect
    reach.cache_clear()


@pytest.mark.parametrize("public", [False, True])
def test_push_uploads_the_export_with_its_card(
    opsd: Opsd, connected: Connected, adapter: Path, tmp_path: Path, public: bool
) -> None:
    with WritableHub(TOKEN) as hub:
        connected(hub.url, HF_TOKEN=TOKEN)
        words = f"export adapter --out there --push me/mine --json {'--public' * public}"
        code, out, err = opsd(words)
        assert code == 0, err
        assert json.loads(out)["url"] == f"{hub.url}/me/mine"
        assert hub.private == {"me/mine": not public}
        assert f"{hub.url}/me/mine: uploaded, {'public' if public else 'private'}" in err
        written = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
        assert hub.files["me/mine"] == written
        card = written["README.md"].decode()
        assert "# mine\n" in card and "'me/mine'" in card and "there" not in card


def test_push_names_the_repository_in_mlx_code_too(
    opsd: Opsd, connected: Connected, adapter: Path, tmp_path: Path
) -> None:
    with WritableHub(TOKEN) as hub:
        connected(hub.url, HF_TOKEN=TOKEN)
        words = "export adapter --format mlx --out there --push me/mine"
        code, _, err = opsd(words)
    assert code == 0, err
    card = (tmp_path / "there" / "README.md").read_text()
    assert "adapter_path=snapshot_download('me/mine')" in card


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        ("--push me/mine", {}, "no token for the hub"),
        ("--push me/mine", {"HF_TOKEN": "hf_other"}, "the hub does not accept the token"),
        ("--push me/taken", {"HF_TOKEN": TOKEN}, "me/taken exists on the hub already"),
        ("--push mine", {"HF_TOKEN": TOKEN}, "'mine' is no name of a repository"),
        ("--push me/mine", {"HF_HUB_OFFLINE": "1"}, "offline mode is on"),
        ("--push me/mine", {"url": "http://127.0.0.1:9"}, "the hub cannot be reached"),
        ("--public", {}, "--public is for --push"),
    ],
)
def test_push_is_refused_before_anything_is_written(
    opsd: Opsd,
    connected: Connected,
    adapter: Path,
    tmp_path: Path,
    words: str,
    environment: dict[str, str],
    said: str,
) -> None:
    with WritableHub(TOKEN, taken=("me/taken",)) as hub:
        connected(**{"url": hub.url, **environment})
        code, _, err = opsd(f"export adapter --out there {words}")
        assert code == 2 and said in err and "hint: " in err and "Traceback" not in err, err
        assert not (tmp_path / "there").exists() and not hub.files


def test_push_to_another_organisation_keeps_the_export(
    opsd: Opsd, connected: Connected, adapter: Path, tmp_path: Path
) -> None:
    with WritableHub(TOKEN) as hub:
        connected(hub.url, HF_TOKEN=TOKEN)
        words = "export adapter --out there --push them/mine"
        code, _, err = opsd(words)
    assert code == 2 and "the token may not write there" in err
    assert (tmp_path / "there" / "README.md").is_file()


def test_push_that_breaks_off_says_how_to_go_on(
    opsd: Opsd, connected: Connected, adapter: Path, tmp_path: Path
) -> None:
    with WritableHub(TOKEN, breaks=True) as hub:
        connected(hub.url, HF_TOKEN=TOKEN)
        words = "export adapter --out there --push me/mine"
        code, _, err = opsd(words)
    assert code == 1 and "cannot push to me/mine" in err
    assert "there is complete: hf upload me/mine there" in err


def test_push_dry_run_uploads_nothing(
    opsd: Opsd, connected: Connected, adapter: Path, tmp_path: Path
) -> None:
    with WritableHub(TOKEN) as hub:
        connected(hub.url, HF_TOKEN=TOKEN)
        words = "export adapter --out there --push me/mine --dry-run"
        code, out, _ = opsd(words)
        assert code == 0 and "push it to me/mine; nothing was written" in out
        assert not hub.private and not (tmp_path / "there").exists()
