"""An adapter in another form: PEFT's files, mlx-lm's, or merged into its model.

`FORMATS` is the registry of these forms, which `opsd export` and its help read. To add one, write a
function that fills a folder, and a line at the end of this module. Importing it is cheap.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opsd_cli.errors import ConfigError, ModelError, RunError
from opsd_cli.lazy import load
from opsd_cli.model_card import CARD, MODELFILE, merging, training_config, use_of, write_card

if TYPE_CHECKING:
    from opsd_cli.config.schema import Config
    from opsd_cli.tracking.listener import Messages

#: The dtype of the base model's files.
BASE = "base"
#: What `--dtype` takes.
DTYPES = (BASE, "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Format:
    """One form of an exported adapter.

    Attributes:
        write: writes the config's adapter in this form into a folder that is empty, its weights
            in a dtype of `DTYPES`.
        library: the one that loads the result, as `opsd_cli.usage_code.programs` takes it.
        use: how to use the result, for people; `{directory}` and `{base}`, the model's path, are
            filled in.
        held: what the result is, where `use` would mislead.
        has_model: whether the weights of the model are written too, in a dtype to choose.
        warning: "module:function" that is given the base model's config.json and its name, and
            returns a warning or None; empty if there is nothing to warn of. With a warning the
            library would answer wrongly, so no command and no code for it is given.
    """

    write: Callable[[Config, Path, str, Messages], None]
    library: str
    use: str
    has_model: bool = False
    warning: str = ""
    held: str = ""

    def usage(
        self, directory: Path, config: Config, caution: str | None = None, with_mlx: bool = True
    ) -> str:
        """How to use the exported directory: a line, and a command that asks it where one can.

        Args:
            caution: what `export` returned; with one, the command is that of another export.
            with_mlx: False where mlx_lm is not in use, which has the only command: a model's card
                is named instead, with its code for transformers and vLLM.
        """
        from opsd_cli.usage_code import command

        if caution is not None:
            return f"{self.held}; for a model that answers as trained:\n{merging(config)}"
        use = use_of(config, training_config(config), str(directory))
        asked = command(use, self.library, "What is 2 + 3?")
        line = self.use.format(directory=directory, base=config.model_path)
        if not with_mlx and self.library == "transformers" and use.unknown is None:
            return f"{line}\nask it with transformers or vLLM: the code is in {directory / CARD}"
        return line if asked is None else f"{line}\n{asked}"

    def own_command(self, directory: Path, config: Config) -> str | None:
        """A command of opsd itself that asks the exported directory with the prompt of training.

        Returns:
            None if the adapter is of no run, so that its prompt is not known.
        """
        from opsd_cli.adapters import run_of
        from opsd_cli.training.layout import CONFIG

        run, trained = run_of(_source(config)), training_config(config)
        if run is None or trained is None:
            return None
        words = ["opsd", "sample", "What is 2 + 3?", "--config", str(run / CONFIG)]
        if self.has_model:
            words += ["--model", str(directory)]
            words += [] if trained.adapter is None else ["--set", "adapter=null"]
        else:
            words += ["--adapter", str(directory)]
            words += [] if config.model == trained.model else ["--model", config.model]
        return shlex.join(words)


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


def require_dtype(form: str, dtype: str | None) -> None:
    """Raise `ConfigError` for a dtype that is none of `DTYPES`, or of a form without a model."""
    if dtype is None:
        return
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}", f"choose from {', '.join(DTYPES)}")
    if not FORMATS[form].has_model:
        able = ", ".join(name for name, each in FORMATS.items() if each.has_model)
        raise ConfigError(
            f"--dtype is for the weights of a model, and --format {form} writes an adapter",
            f"leave out --dtype, or write a model: --format {able}",
        )


def check_source(config: Config, messages: Messages) -> None:
    """Check the adapter's base model, and warn if the adapter was not trained.

    Raises:
        ModelError: the adapter was made for another model.
    """
    from opsd_cli.adapters import refuse_other_base, untrained

    refuse_other_base(config)
    warning = untrained(_source(config))
    if warning:
        messages.warn(warning)


def export(
    config: Config,
    form: str,
    directory: Path,
    messages: Messages,
    dtype: str | None = None,
    repository: str | None = None,
) -> str | None:
    """Write the config's adapter in another form with a model card, whole or not at all.

    Args:
        form: one of `FORMATS`. "merged" loads the model and adds the adapter into its weights; the
            others convert the adapter's files.
        directory: as `target_of` gives it.
        dtype: one of `DTYPES`, for a form that has the model's weights; by default the base's.
        repository: ORG/NAME if the directory is to be uploaded there; the card then names it.

    Returns:
        Why the form's library would answer wrongly with this model, for the caller to say last;
        None where it does not.

    Raises:
        ModelError: the adapter, or for "merged" the model, cannot be read.
        RunError: the directory cannot be written.
    """
    chosen = FORMATS[form]
    check_source(config, messages)
    caution = caution_of(config, form)

    def write(folder: Path) -> None:
        chosen.write(config, folder, dtype or BASE, messages)
        write_card(folder, config, chosen.library, directory, caution, repository)

    _whole(directory, write)
    unknown = use_of(config, training_config(config), str(directory)).unknown
    if unknown is not None:
        messages.warn(
            f"the worked examples of the run's prompts cannot be read ({unknown}): {CARD} has no "
            "code that asks the model"
        )
    return caution


def _source(config: Config) -> Path:
    assert config.adapter is not None
    return Path(config.adapter)


def caution_of(config: Config, form: str) -> str | None:
    """The form's warning about the base model; None too if its config.json cannot be read."""
    from backends.shared.model_files import read_settings

    warning = FORMATS[form].warning
    if not warning:
        return None
    try:
        settings = read_settings(config.model_path, config.revision)
    except ModelError:  # an adapter is converted without its base
        return None
    text: str | None = load(warning)(settings, config.model)
    return text


def _write_peft(config: Config, folder: Path, _: str, __: Messages) -> None:
    from backends.shared import adapter_files

    settings = adapter_files.read_settings(_source(config))
    adapter_files.write_peft(folder, adapter_files.read_weights(_source(config)), settings)


def _write_mlx(config: Config, folder: Path, _: str, __: Messages) -> None:
    from backends.shared import adapter_files

    settings = adapter_files.read_settings(_source(config))
    adapter_files.write_mlx(folder, adapter_files.read_weights(_source(config)), settings)


def _write_merged(config: Config, folder: Path, dtype: str, messages: Messages) -> None:
    from backends.rollout_engines import BUILTIN
    from opsd_cli.evaluation.evaluate import evaluation_sampling
    from opsd_cli.loading import choose_backend, loaded_policy
    from opsd_cli.ollama import modelfile
    from opsd_cli.prompts.rendering import Template
    from opsd_cli.trained_prompt import trained_prompt

    if config.train.dtype == "auto":  # a sum of bfloat16 numbers would lose small differences
        train = config.train.model_copy(update={"dtype": "float32"})
        config = config.model_copy(update={"train": train})
    config, _ = choose_backend(config, messages)
    builtin = config.rollouts.model_copy(update={"engine": BUILTIN})
    config = config.model_copy(update={"rollouts": builtin})
    trained = training_config(config)
    template, known = Template("{question}"), True
    if trained is not None:
        prompt = trained_prompt(config, trained)
        template, known = prompt.template, prompt.unknown is None
    sampling = evaluation_sampling(trained or config)
    with loaded_policy(config, messages, trainable=False) as policy:
        text = modelfile(policy, template, sampling, "model.gguf") if known else None
        policy.save_merged(folder, None if dtype == BASE else dtype)
    if text is not None:
        (folder / MODELFILE).write_text(text, encoding="utf-8")


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
        _write_peft,
        "peft",
        "peft.PeftModel.from_pretrained(model, '{directory}') loads it on {base}",
    ),
    "mlx": Format(
        _write_mlx,
        "mlx",
        "mlx_lm loads it on {base}",
        warning="backends.mlx.plain_mlx_lm:export_warning",
        held="the adapter in mlx-lm's form, which opsd loads too (--adapter)",
    ),
    "merged": Format(
        _write_merged,
        "transformers",
        "a model of its own: transformers, vLLM and mlx_lm load the folder",
        has_model=True,
    ),
}
