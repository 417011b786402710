"""A config.json means the same to both backends, in either spelling, or is refused in one line.

mlx-lm drops the keys that its classes do not declare, so each model here differs from the defaults
in one thing that a config may name, and its logits are held against transformers' own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import backends
from backends.shared import rotary
from backends.shared.model_files import write_both_spellings
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError
from tests.support import tiny_models
from tests.support.backend_fixtures import require_backend

#: As many as fit into the shortest context, and enough to leave the windows of 8 behind.
IDS = tuple(int(n) for n in np.random.default_rng(0).integers(3, 24, 40))
Build = Callable[..., Path]

BASE: dict[str, Any] = {
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_theta": 200.0, "rope_type": "default"},
}
LOCAL_FIRST = ["sliding_attention", "full_attention"]
#: What is made, and the keys of it that say what is unusual.
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama linear": {"model_type": "llama", "rope_type": "linear", "factor": 3.0},
    "llama biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama tied": {"model_type": "llama", "tie_word_embeddings": True, "head_dim": 10},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2"},
    "qwen2 yarn": {
        "model_type": "qwen2",
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
    },
    "qwen2 tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 6},
    "gemma3 odd": {  # the square root of its hidden size is not a bfloat16
        "model_type": "gemma3_text",
        "hidden_size": 20,
        "head_dim": 6,
        "num_hidden_layers": 3,
        "layer_types": [*LOCAL_FIRST, "sliding_attention"],
        "sliding_window": 8,
        "query_pre_attn_scalar": 5,
        "rope_parameters": {
            "sliding_attention": {"rope_theta": 90.0, "rope_type": "default"},
            "full_attention": {"rope_theta": 4000.0, "rope_type": "default"},
        },
        "tie_word_embeddings": True,
    },
    "olmo2": {"model_type": "olmo2"},
    "granite": {
        "model_type": "granite",
        "embedding_multiplier": 2.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.7,
        "logits_scaling": 1.5,
    },
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [0, 1]},
}
ROTARY_KEYS = (
    "rope_type",
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "low_freq_factor",
    "high_freq_factor",
)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The folder of a tiny model of these settings, as transformers writes it."""
    root = tmp_path_factory.mktemp("meaning")

    def folder(**changes: Any) -> Path:
        settings = {**BASE, **changes}
        scaling = {key: settings.pop(key) for key in ROTARY_KEYS if key in settings}
        if scaling:
            settings["rope_parameters"] = {**settings["rope_parameters"], **scaling}
        path = root / str(len(list(root.iterdir())))
        return tiny_models.build(path, settings)

    return folder


def transformers_logits(folder: Path) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor([IDS]), use_cache=False).logits[0].numpy()


def our_scores(backend: str, folder: Path) -> np.ndarray:
    config = Config(model=str(folder), train={"dtype": "float32"})
    policy = backends.get(backend).load(config, trainable=False)
    return policy.score([(IDS[:1], IDS[1:])])[0]


def log_probs(logits_LV: np.ndarray) -> np.ndarray:
    rows = torch.tensor(logits_LV).double().log_softmax(-1)
    return rows[torch.arange(len(IDS) - 1), torch.tensor(IDS[1:])].numpy()


def mlx_logits(folder: Path) -> np.ndarray:
    """Of plain mlx-lm, which knows nothing of us."""
    import mlx.core as mx
    import mlx_lm

    model, _ = mlx_lm.load(str(folder))
    return np.array(model(mx.array([IDS]))[0].astype(mx.float32))


def refusal(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        our_scores("mlx", folder)
    error = caught.value
    assert "\n" not in error.message and error.hint and "\n" not in error.hint
    return error


@pytest.mark.parametrize("variant", VARIANTS)
def test_mlx_logits_equal_transformers(build: Build, variant: str) -> None:
    require_backend("mlx")
    folder = build(**VARIANTS[variant])
    wanted = log_probs(transformers_logits(folder))
    np.testing.assert_allclose(our_scores("mlx", folder), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["llama", "qwen2 yarn", "mistral", "granite", "olmo2"])
def test_plain_mlx_lm_logits_equal_transformers_with_both_rope_spellings(
    build: Build, variant: str
) -> None:
    require_backend("mlx")
    folder = build(**VARIANTS[variant])
    wanted = transformers_logits(folder)
    hazard = VARIANTS[variant]["model_type"] in ("llama", "qwen2")
    before = mlx_logits(folder) if hazard else wanted
    write_both_spellings(folder)
    assert np.abs(mlx_logits(folder) - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert (transformers_logits(folder) == wanted).all()
    assert (np.abs(before - wanted).max() > 0.1) == hazard


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_both_rope_spellings_give_the_same_logits(
    model_folder: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    folder = Path(shutil.copytree(model_folder(family), tmp_path / "model"))
    before = AutoConfig.from_pretrained(folder)
    write_both_spellings(folder)
    written = json.loads((folder / "config.json").read_text())
    after = AutoConfig.from_pretrained(folder)
    assert rotary.same(after, before)
    assert written["rope_parameters"] == before.rope_parameters
    whole = before.rope_parameters.get("full_attention", before.rope_parameters)
    assert written["rope_theta"] == whole["rope_theta"]
    for key in ("factor", "low_freq_factor"):
        if key in whole:
            assert written["rope_scaling"][key] == whole[key]
    if family == "gemma3":
        assert written["rope_local_base_freq"] == 90.0


def test_older_rope_spelling_alone_is_read(build: Build) -> None:
    """As hub repositories from before transformers 5 have it."""
    require_backend("mlx")
    folder = build(**VARIANTS["qwen2 yarn"])
    wanted = transformers_logits(folder)
    write_both_spellings(folder)
    settings = json.loads((folder / "config.json").read_text())
    del settings["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(settings))
    assert (transformers_logits(folder) == wanted).all()
    np.testing.assert_allclose(our_scores("mlx", folder), log_probs(wanted), rtol=1e-4, atol=1e-4)


def test_rope_base_without_a_key_is_transformers_default(build: Build) -> None:
    """mlx-lm's Qwen2 takes 1,000,000 for want of the key, transformers 10,000."""
    require_backend("mlx")
    folder = build(model_type="qwen2")
    settings = json.loads((folder / "config.json").read_text())
    del settings["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(settings))
    wanted = log_probs(transformers_logits(folder))
    np.testing.assert_allclose(our_scores("mlx", folder), wanted, rtol=1e-4, atol=1e-4)


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "sliding_window 8": ("mistral", {"sliding_window": 8}),
    "sliding_window 9": (
        "qwen2",
        {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 1},
    ),
    "hidden_act": ("llama", {"hidden_act": "gelu"}),
    "attn_logit_softcapping": (
        "gemma3_text",
        {
            "attn_logit_softcapping": 20.0,
            "rope_parameters": VARIANTS["gemma3 odd"]["rope_parameters"],
            "layer_types": LOCAL_FIRST,
        },
    ),
    "rotary embedding": (  # mlx-lm always rounds the bounds of YaRN's ramp
        "llama",
        {
            "rope_parameters": {
                "rope_theta": 200.0,
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "truncate": False,
            },
            "head_dim": 16,
        },
    ),
    "layer 1": (
        "gemma3_text",
        {
            "num_hidden_layers": 4,
            "layer_types": [*LOCAL_FIRST, "full_attention", "sliding_attention"],
            "rope_parameters": VARIANTS["gemma3 odd"]["rope_parameters"],
        },
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_config_keys_that_mlx_lm_would_drop_are_refused(build: Build, said: str) -> None:
    require_backend("mlx")
    kind, changes = REFUSED[said]
    error = refusal(build(model_type=kind, **changes))
    assert said in error.message and "would not compute" in error.message
    assert "--backend cpu" in error.hint


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"attention_dropout": 0.1, "initializer_range": 0.5, "pretraining_tp": 2}),
        ("llama", {"use_cache": False, "hidden_act": "swish", "made_up_scaling": 3.0}),
        ("qwen2", {"sliding_window": 9, "use_sliding_window": False, "max_window_layers": 1}),
        ("mistral", {"sliding_window": 64}),  # as long as the context
    ],
)
def test_config_keys_without_effect_are_accepted(
    build: Build, kind: str, changes: dict[str, Any]
) -> None:
    require_backend("mlx")
    folder = build(model_type=kind, **changes)
    wanted = log_probs(transformers_logits(folder))
    np.testing.assert_allclose(our_scores("mlx", folder), wanted, rtol=1e-4, atol=1e-4)


ROTATIONS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 3.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "truncate": False,
        "beta_fast": 16.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
    },
    {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "attention_factor": 1.7,
    },
    {
        "rope_type": "longrope",
        "short_factor": [1.0 + n / 8 for n in range(16)],
        "long_factor": [2.0 + n for n in range(16)],
        "original_max_position_embeddings": 512,
    },
    {"rope_type": "proportional", "partial_rotary_factor": 0.25},
]


@pytest.mark.parametrize("parameters", ROTATIONS, ids=lambda p: "-".join(map(str, p.values()))[:40])
def test_rope_frequencies_equal_transformers(parameters: dict[str, Any]) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        rope_parameters={"rope_theta": 4321.0, **parameters},
    )
    found = rotary.rotation(config.rope_parameters, config, 32)
    assert found is not None
    if parameters["rope_type"] == "default":
        width = int(32 * parameters.get("partial_rotary_factor", 1.0))
        frequencies, factor = 4321.0 ** -(torch.arange(0, width, 2) / width), 1.0
    else:
        frequencies, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config)
    np.testing.assert_allclose(found.frequencies, frequencies.numpy(), rtol=1e-5)
    assert found.factor == pytest.approx(factor)


def test_unknown_rope_scaling_is_not_guessed() -> None:
    assert rotary.rotation({"rope_type": "axial", "rope_theta": 10.0}, None, 8) is None
