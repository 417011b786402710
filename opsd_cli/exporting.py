"""An adapter in another form: PEFT's files, mlx-lm's, or merged into its model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from backends.rollout_engines import BUILTIN
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError, ModelError, RunError
from opsd_cli.files.os_errors import naming
from opsd_cli.loading import choose_backend, loaded_policy
from opsd_cli.tracking.listener import Messages
from opsd_cli.training.run_directory import refuse_used

FORMATS = ("peft", "mlx", "merged")
#: Architectures of which mlx-lm 0.32 reads `rope_parameters`.
_READ_BY_MLX_LM = (
    "exaone_moe", "gemma4_text", "glm_moe_dsa", "granitemoehybrid", "laguna", "lfm2", "lfm2_moe",
    "mellum", "ministral3", "mistral4", "olmo_hybrid", "qwen3", "qwen3_5",
)  # fmt: skip


def target_of(config: Config, form: str, directory: Path | None) -> Path:
    """The directory that an export is written to, free for it.

    Args:
        config: with the adapter to export.
        form: one of `FORMATS`.
        directory: by default one under `exports/`, named after adapter and form.

    Raises:
        RunError: the directory is used.
    """
    directory = directory or Path("exports") / f"{_source(config).resolve().name}-{form}"
    refuse_used(directory)
    return directory


def require_format(form: str) -> None:
    """Raise `ConfigError` for a form that is not one of `FORMATS`."""
    if form not in FORMATS:
        raise ConfigError(f"unknown format {form!r}", f"choose from {', '.join(FORMATS)}")


def export(config: Config, form: str, directory: Path, messages: Messages) -> None:
    """Write the config's adapter in another form, whole or not at all.

    Args:
        form: "peft" and "mlx" convert the adapter's files; "merged" loads the model and adds the
            adapter into its weights.
        directory: as `target_of` gives it.

    Raises:
        ModelError: the adapter, or for "merged" the model, cannot be read.
        RunError: the directory cannot be written.
    """
    if form == "merged":
        _whole(directory, lambda folder: _merge(config, folder, messages))
    else:
        _whole(directory, lambda folder: _convert(_source(config), folder, form))
    if form == "mlx":
        _warn_of_base(config, messages)


def _source(config: Config) -> Path:
    assert config.adapter is not None
    return Path(config.adapter)


def _convert(source: Path, folder: Path, form: str) -> None:
    from backends.shared import adapter_files

    settings = adapter_files.read_settings(source)
    write = adapter_files.write_peft if form == "peft" else adapter_files.write_mlx
    write(folder, adapter_files.read_weights(source), settings)


def _warn_of_base(config: Config, messages: Messages) -> None:
    """Warn if plain mlx-lm would compute other positions for the base than it was trained with."""
    from backends.shared.model_files import read_settings
    from backends.shared.rotary import newer_spelling_alone

    try:
        settings = read_settings(config.model_path, config.revision)
    except ModelError:  # an adapter is converted without its base
        return
    text = settings.get("text_config")
    kind = (text if isinstance(text, dict) else settings).get("model_type")
    if newer_spelling_alone(settings) and kind not in _READ_BY_MLX_LM:
        messages.warn(
            f"plain mlx_lm does not read rope_parameters of a {kind} model and would give other "
            f"answers with {config.model}; --format merged writes a model that it reads rightly"
        )


def _merge(config: Config, folder: Path, messages: Messages) -> None:
    if config.train.dtype == "auto":  # a sum of bfloat16 numbers would lose small differences
        train = config.train.model_copy(update={"dtype": "float32"})
        config = config.model_copy(update={"train": train})
    config, _ = choose_backend(config, messages)
    builtin = config.rollouts.model_copy(update={"engine": BUILTIN})
    config = config.model_copy(update={"rollouts": builtin})
    with loaded_policy(config, messages, trainable=False) as policy:
        policy.save_merged(folder)


def _whole(directory: Path, write: Callable[[Path], None]) -> None:
    """Write to a folder beside the directory, then rename it, so that no part is ever left."""
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
