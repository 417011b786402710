"""An adapter in another form: PEFT's files, mlx-lm's, or merged into its model.

`FORMATS` is the registry of these forms, which `opsd export` and its help read. To add one, write a
function that fills a folder, and a line at the end of this module. Importing it is cheap.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opsd_cli.errors import ConfigError, ModelError, RunError
from opsd_cli.lazy import load

if TYPE_CHECKING:
    from opsd_cli.config.schema import Config
    from opsd_cli.tracking.listener import Messages


@dataclass(frozen=True)
class Format:
    """One form of an exported adapter.

    Attributes:
        write: writes the config's adapter in this form into a folder that is empty.
        use: how to use the result, for people; `{directory}` and `{base}`, the model's path, are
            filled in.
        warning: "module:function" that is given the base model's config.json and its name, and
            returns a warning or None; empty if there is nothing to warn of.
    """

    write: Callable[[Config, Path, Messages], None]
    use: str
    warning: str = ""

    def usage(self, directory: Path, config: Config) -> str:
        """How to use the exported directory, one line."""
        return self.use.format(directory=directory, base=config.model_path)


def target_of(config: Config, form: str, directory: Path | None) -> Path:
    """The directory that an export is written to, free for it.

    Args:
        config: with the adapter to export.
        form: one of `FORMATS`.
        directory: by default one under `exports/`, named after adapter and form.

    Raises:
        RunError: the directory is used.
    """
    from opsd_cli.training.run_directory import refuse_used

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
        form: one of `FORMATS`. "merged" loads the model and adds the adapter into its weights; the
            others convert the adapter's files.
        directory: as `target_of` gives it.

    Raises:
        ModelError: the adapter, or for "merged" the model, cannot be read.
        RunError: the directory cannot be written.
    """
    chosen = FORMATS[form]
    _whole(directory, lambda folder: chosen.write(config, folder, messages))
    if chosen.warning:
        _warn_of_base(config, chosen.warning, messages)


def _source(config: Config) -> Path:
    assert config.adapter is not None
    return Path(config.adapter)


def _warn_of_base(config: Config, warning: str, messages: Messages) -> None:
    """Give the format's warning about the base model, if its config.json can be read."""
    from backends.shared.model_files import read_settings

    try:
        settings = read_settings(config.model_path, config.revision)
    except ModelError:  # an adapter is converted without its base
        return
    text = load(warning)(settings, config.model)
    if text is not None:
        messages.warn(text)


def _write_peft(config: Config, folder: Path, _: Messages) -> None:
    from backends.shared import adapter_files

    settings = adapter_files.read_settings(_source(config))
    adapter_files.write_peft(folder, adapter_files.read_weights(_source(config)), settings)


def _write_mlx(config: Config, folder: Path, _: Messages) -> None:
    from backends.shared import adapter_files

    settings = adapter_files.read_settings(_source(config))
    adapter_files.write_mlx(folder, adapter_files.read_weights(_source(config)), settings)


def _write_merged(config: Config, folder: Path, messages: Messages) -> None:
    from backends.rollout_engines import BUILTIN
    from opsd_cli.loading import choose_backend, loaded_policy

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
    from opsd_cli.files.os_errors import naming

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


#: The name that `--format` takes -> the form.
FORMATS: dict[str, Format] = {
    "peft": Format(
        _write_peft, "peft.PeftModel.from_pretrained(model, '{directory}') loads it on {base}"
    ),
    "mlx": Format(
        _write_mlx,
        "mlx_lm.generate --model {base} --adapter-path {directory}",
        warning="backends.mlx.plain_mlx_lm:export_warning",
    ),
    "merged": Format(
        _write_merged, "a model of its own: transformers, vLLM and mlx_lm load the folder"
    ),
}
