"""From a preset, a file or a run to a config, and from a config to a loaded policy.

What every command does before its own work, and a notebook does by itself: resolve the config, find
the adapter that a path stands for, choose the backend, load the model and start its rollout engine.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.config.presets import preset_names
from opsd_cli.config.resolve import assigned, merge, resolve
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError
from opsd_cli.files.json_files import read_object
from opsd_cli.tracking.listener import Messages
from opsd_cli.training.checkpoints import whole_checkpoint
from opsd_cli.training.run_directory import CONFIG, best_checkpoint

if TYPE_CHECKING:
    from backends import Choice
    from backends.interface import Policy

ADAPTER_CONFIG = "adapter_config.json"

Source = Config | str | Path
"""A config, a preset's name, a YAML file, or a run's directory."""


def load_config(source: Source | None = None, /, **overrides: Any) -> Config:
    """A config from a preset, a file or a run, with some keys changed.

        load_config("embedded", method="grpo", **{"train.steps": 5, "data.train": "mine.jsonl"})

    Args:
        source: a preset's name; a YAML file; a run's directory, for its own config with its best
            checkpoint as the adapter; or a config to change. By default the embedded preset.
        overrides: config keys, dotted or nested (`train={"steps": 5}`), as `--set` takes them;
            `adapter` may name a run, for its best checkpoint.

    Raises:
        ConfigError: an unknown key, preset or file, or a value that is not valid.
        ModelError: there is no adapter where `adapter` or the run points.
    """
    flat = dict(_flattened(overrides))
    if isinstance(source, Config):
        if flat.get("adapter"):
            flat["adapter"] = str(adapter_folder(Path(flat["adapter"]).expanduser()))
        for key, value in flat.items():
            source = assigned(source, key, value)
        return source
    base = _config_of_run(source)
    if base is not None:
        flat = {"adapter": str(source), **flat}
    # Flags that are None count as not given, so null is assigned as `--set` does it.
    nulls = [f"{key}=null" for key, value in flat.items() if value is None]
    flags: dict[str, Any] = {}
    for key, value in flat.items():
        flags = merge(flags, _nested(key, value))
    name = None if source is None or base is not None else str(source)
    return resolved_config(name, nulls, flags, base=base)


def _config_of_run(source: str | Path | None) -> Path | None:
    """The config file of a run's directory; None for a preset or a file."""
    if source is None or str(source) in preset_names():
        return None
    path = Path(source).expanduser() / CONFIG
    return path if path.is_file() else None


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and their values; an empty mapping is a value."""
    flat: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat += _flattened(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", str(value) if isinstance(value, Path) else value))
    return flat


def _nested(key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return {first: _nested(rest, value) if rest else value}


def config_of(source: Source | None) -> Config:
    """The config that a source stands for."""
    return source if isinstance(source, Config) else load_config(source)


def resolved_config(
    name: str | None,
    assignments: Sequence[str],
    flags: Mapping[str, Any],
    inherit: bool = False,
    base: Path | None = None,
) -> Config:
    """The config with its `adapter` flag resolved to a folder of adapter files.

    Args:
        name, assignments, flags: as `opsd_cli.config.resolve.resolve` takes them.
        inherit: if the `adapter` flag names a run, the run's own config is the base that everything
            else is laid over, so that its model, prompts and sampling need not be repeated.
        base: the file of such a config; it replaces the run's own.

    Raises:
        ConfigError: a key, preset, file or value that is not valid.
        ModelError: there is no adapter where the flag points.
    """
    flags = dict(flags)
    if flags.get("adapter"):
        given = Path(flags["adapter"]).expanduser()
        flags["adapter"] = str(adapter_folder(given))
        if inherit and base is None and (given / CONFIG).is_file():
            base = given / CONFIG
    return resolve(name, assignments, flags, base)


def adapter_folder(given: Path) -> Path:
    """The folder of adapter files that a path stands for: itself, or a run's best checkpoint.

    Raises:
        ModelError: there is no adapter there.
    """
    if (given / ADAPTER_CONFIG).is_file():
        return whole_checkpoint(given)
    best = best_checkpoint(given)
    if best is not None:
        return whole_checkpoint(best)
    if not given.exists():
        raise ModelError(f"there is no adapter at {given}", "give a run's or an adapter's folder")
    raise ModelError(
        f"{given} holds no adapter: neither {ADAPTER_CONFIG} nor a run's `best`",
        "give a run's directory, or a folder with adapter_config.json",
    )


def with_absolute_adapter(config: Config) -> Config:
    """The config with an absolute path to its adapter, valid from any working directory."""
    if config.adapter is None:
        return config
    return config.model_copy(update={"adapter": str(Path(config.adapter).resolve())})


def choose_backend(config: Config, messages: Messages) -> tuple[Config, Choice]:
    """The config with the chosen backend in place of `auto`, and the choice with its reason.

    Raises:
        BackendMissing: none can run on this machine, or not the one that is asked for.
    """
    import backends

    choice = backends.choose(config.backend)
    messages.note(f"backend {choice.name}: {choice.reason}")
    return config.model_copy(update={"backend": choice.name}), choice


@contextlib.contextmanager
def loaded_policy(
    config: Config, messages: Messages, trainable: bool, folder: Path | None = None
) -> Iterator[Policy]:
    """The model on the config's backend, with the engine that samples its rollouts.

    Args:
        config: its backend is chosen already (`choose_backend`).
        trainable: whether to make an optimizer, and an adapter where the config names none.
        folder: where an engine in its own process may keep files; by default a temporary folder.

    Raises:
        ModelError: the model or its adapter cannot be loaded.
        BackendMissing: the backend's packages are not installed.
    """
    import backends
    from backends.rollout_engines import get_engine

    with contextlib.ExitStack() as stack, contextlib.ExitStack() as waiting:
        waiting.enter_context(messages.working("loading the model"))
        try:
            policy = backends.get(config.backend).load(config, trainable)
        except ModelError as error:
            raise _made_for_another_base(error, config) from error
        engine = get_engine(config.rollouts.engine)
        if engine.separate_from_trainer:
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            messages.note(f"waiting for {engine.title}")
            attached = engine.attached(config, policy, folder, messages.warn)
            policy = stack.enter_context(attached)
        waiting.close()
        messages.note(f"model {config.model}: {policy.description}")
        yield policy


def _made_for_another_base(error: ModelError, config: Config) -> ModelError:
    """The error, with the adapter's base model as the cause if that is not the config's model."""
    folder = config.adapter and Path(config.adapter)
    settings = read_object(folder / ADAPTER_CONFIG) if folder else None
    base = (settings or {}).get("base_model_name_or_path")
    if not base or base == config.model or "adapter" not in error.message:
        return error
    return ModelError(
        error.message,
        f"it was made for the model {base}, and this is {config.model}: check --model",
    )
