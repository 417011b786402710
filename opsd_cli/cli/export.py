"""`opsd export`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from backends.engines import BUILTIN
from opsd_cli.cli.common import Request, choose_backend, loaded_policy
from opsd_cli.cli.console import Output
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError, ModelError, RunError
from opsd_cli.files.os_errors import naming
from opsd_cli.training import run_directory

FORMATS = ("peft", "mlx", "merged")


def run(request: Request, form: str, directory: Path | None) -> None:
    """Write the adapter in another form, whole or not at all."""
    out = request.out
    if form not in FORMATS:
        raise ConfigError(f"unknown format {form!r}", f"choose from {', '.join(FORMATS)}")
    config = request.config(inherit=True)
    assert config.adapter is not None
    source = Path(config.adapter)
    directory = directory or Path("exports") / f"{source.resolve().name}-{form}"
    run_directory.refuse_used(directory)
    if request.dry_run:
        out.show(f"would write {source} as {form} to {directory}; nothing was written")
        out.object({"adapter": str(source), "format": form, "out": str(directory)})
        return
    if form == "merged":
        _whole(directory, lambda folder: _merge(config, folder, out))
    else:
        _whole(directory, lambda folder: _convert(source, folder, form))
    if form == "mlx":
        _warn_of_base(config, out)
    out.show(f"{directory}: {_how_to_use(directory, form, config)}")
    out.object({"adapter": str(source), "format": form, "out": str(directory)})


def _convert(source: Path, folder: Path, form: str) -> None:
    from backends.shared import adapter_files

    settings = adapter_files.read_settings(source)
    write = adapter_files.write_peft if form == "peft" else adapter_files.write_mlx
    write(folder, adapter_files.read_weights(source), settings)


#: Architectures of which mlx-lm 0.32 reads `rope_parameters`.
_READ_BY_MLX_LM = (
    "exaone_moe", "gemma4_text", "glm_moe_dsa", "granitemoehybrid", "laguna", "lfm2", "lfm2_moe",
    "mellum", "ministral3", "mistral4", "olmo_hybrid", "qwen3", "qwen3_5",
)  # fmt: skip


def _warn_of_base(config: Config, out: Output) -> None:
    """Say where plain mlx-lm would read the base otherwise than it was trained on."""
    from backends.shared.model_files import read_settings
    from backends.shared.rotary import newer_spelling_alone

    try:
        settings = read_settings(config.model_path, config.revision)
    except ModelError:  # an adapter is converted without its base
        return
    text = settings.get("text_config")
    kind = (text if isinstance(text, dict) else settings).get("model_type")
    if newer_spelling_alone(settings) and kind not in _READ_BY_MLX_LM:
        out.warn(
            f"plain mlx_lm does not read rope_parameters of a {kind} model and would give other "
            f"answers with {config.model}; --format merged writes a model that it reads rightly"
        )


def _merge(config: Config, folder: Path, out: Output) -> None:
    if config.train.dtype == "auto":  # a sum of bfloat16 numbers would lose small differences
        train = config.train.model_copy(update={"dtype": "float32"})
        config = config.model_copy(update={"train": train})
    config, _ = choose_backend(config, out)
    builtin = config.rollouts.model_copy(update={"engine": BUILTIN})
    config = config.model_copy(update={"rollouts": builtin})
    with loaded_policy(config, out, trainable=False) as policy:
        policy.save_merged(folder)


def _whole(directory: Path, write: Callable[[Path], None]) -> None:
    """Write beside the place and rename into it, so that there is never half of it."""
    partial = directory.parent / f".{directory.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        with naming(directory):
            write(partial)
        partial.replace(directory)
    except OSError as error:
        raise RunError(
            f"cannot write to {directory}: {error.strerror or error}", "give another --out DIR"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _how_to_use(directory: Path, form: str, config: Config) -> str:
    base = config.model_path
    if form == "peft":
        return f"peft.PeftModel.from_pretrained(model, '{directory}') loads it on {base}"
    if form == "mlx":
        return f"mlx_lm.generate --model {base} --adapter-path {directory}"
    return "a model of its own: transformers, vLLM and mlx_lm load the folder"
