"""From a preset, a file or a run to a config, and from a config to a loaded policy.

The steps that every command runs before its own work, also available to a notebook: resolve the
config, find the adapter that a path stands for, choose the backend, load the model and start its
rollout engine.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli import methods
from opsd_cli.adapters import (
    adapter_folder,
    base_model_of,
    other_base,
    refuse_other_base,
    run_of,
    untrained,
)
from opsd_cli.config.layers import merge
from opsd_cli.config.presets import preset_names
from opsd_cli.config.resolve import assigned, resolve
from opsd_cli.config.schema import Config
from opsd_cli.devices.number import Devices, count
from opsd_cli.embedded import EMBEDDED
from opsd_cli.errors import ModelError, UsageError
from opsd_cli.prompts.rendering import NO_CHAT_TEMPLATE
from opsd_cli.tracking.listener import Messages
from opsd_cli.training.run_directory import CONFIG

if TYPE_CHECKING:
    from backends import Choice
    from backends.interface import Policy

Source = Config | str | Path
"""A config, a preset's name, a YAML file, or a run's directory."""


def load_config(
    source: Source | None = None, /, *, checkpoint: str | int | None = None, **overrides: Any
) -> Config:
    """A config from a preset, a file or a run, with some keys changed.

        load_config("embedded", method="grpo", **{"train.steps": 5, "data.train": "mine.jsonl"})

    Args:
        source: a preset's name; a YAML file; a run's directory, for its own config with its best
            checkpoint as the adapter; or a config to change. By default the embedded preset.
        checkpoint: of the run that `source` or `adapter` names: "best" (the default), "last", or
            a step.
        overrides: config keys, dotted or nested (`train={"steps": 5}`), as `--set` takes them;
            `adapter` may name a run, for its best checkpoint.

    Raises:
        ConfigError: an unknown key, preset or file, or a value that is not valid.
        ModelError: there is no adapter where `adapter` or the run points, or no such checkpoint.
        UsageError: `checkpoint` without a run.
    """
    flat = dict(_flattened(overrides))
    if isinstance(source, Config):
        _require_run(flat, checkpoint)
        if flat.get("adapter"):
            flat["adapter"] = str(adapter_folder(Path(flat["adapter"]).expanduser(), checkpoint))
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
    return resolved_config(name, nulls, flags, base=base, checkpoint=checkpoint)


def _require_run(flags: Mapping[str, Any], checkpoint: str | int | None) -> None:
    """Raise `UsageError` for a checkpoint without the run to take it from."""
    if checkpoint is not None and not flags.get("adapter"):
        raise UsageError(
            "--checkpoint chooses among a run's checkpoints, and no run is given",
            "give the run (--adapter RUN)",
        )


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
    name: str | Sequence[str] | None,
    assignments: Sequence[str],
    flags: Mapping[str, Any],
    inherit: bool = False,
    base: Path | None = None,
    checkpoint: str | int | None = None,
) -> Config:
    """The config with its `adapter` flag resolved to a folder of adapter files.

    Args:
        name, assignments, flags: as `opsd_cli.config.resolve.resolve` takes them.
        inherit: if the `adapter` flag names a run, the run's own config is the base that everything
            else is laid over, so that its model, prompts and sampling need not be repeated. It is
            the base too for a checkpoint's folder within a run, if nothing else names a model.
        base: the file of such a config; it replaces the run's own.
        checkpoint: of the run that the `adapter` flag names, as `adapter_folder` takes it.

    An adapter without any of these is laid over the model that its files name.

    Raises:
        ConfigError: a key, preset, file or value that is not valid.
        ModelError: there is no adapter where the flag points, or no such checkpoint.
        UsageError: `checkpoint` without an `adapter` flag.
    """
    flags = dict(flags)
    _require_run(flags, checkpoint)
    if not flags.get("adapter"):
        return resolve(name, assignments, flags, base)
    given = Path(flags["adapter"]).expanduser()
    adapter = adapter_folder(given, checkpoint)
    flags["adapter"] = str(adapter)
    if base is not None:
        return resolve(name, assignments, flags, base)
    if inherit and (given / CONFIG).is_file():
        return resolve(name, assignments, flags, given / CONFIG)
    if "model" in resolve(name, assignments, flags, {}).model_fields_set:
        return resolve(name, assignments, flags)
    run = run_of(adapter)
    if inherit and run is not None:
        return resolve(name, assignments, flags, run / CONFIG)
    model = base_model_of(adapter)
    return resolve(
        name, assignments, flags, None if model in (None, EMBEDDED) else {"model": model}
    )


def with_absolute_adapter(config: Config) -> Config:
    """The config with absolute paths to its adapter and to its teacher's model, where they are
    folders: valid from any working directory."""
    changed: dict[str, Any] = {}
    if config.adapter is not None:
        changed["adapter"] = str(Path(config.adapter).resolve())
    other = config.teacher_config
    if other is not None and other.model != EMBEDDED and other.is_local:
        folder = str(Path(other.model).expanduser().resolve())
        changed["teacher"] = config.teacher.model_copy(update={"model": folder})
    return config.model_copy(update=changed)


def choose_backend(config: Config, messages: Messages) -> tuple[Config, Choice]:
    """The config with the chosen backend in place of `auto`, and the choice with its reason.

    Raises:
        BackendMissing: none can run on this machine, or not the one that is asked for.
    """
    import backends

    choice = backends.choose(config.backend, *_named_by_run(config))
    messages.note(f"backend {choice.name}: {choice.reason}")
    return config.model_copy(update={"backend": choice.name}), choice


def _named_by_run(config: Config) -> tuple[str, ...]:
    """Where the backend's name is from, if the run that the adapter is of has the same."""
    run = run_of(Path(config.adapter)) if config.adapter else None
    if run is None or resolve(base=run / CONFIG).backend != config.backend:
        return ()
    return (f"the run's config, {run / CONFIG}",)


@contextlib.contextmanager
def loaded_policy(
    config: Config,
    messages: Messages,
    trainable: bool,
    folder: Path | None = None,
    devices: Devices = 1,
) -> Iterator[Policy]:
    """The model on the config's backend, with the engine that samples its rollouts.

    Args:
        config: its backend is chosen already (`choose_backend`).
        trainable: whether to make an optimizer, and an adapter where the config names none.
        folder: where an engine in its own process may keep files; by default a temporary folder.
        devices: of this machine; a process for each shares the work.

    Raises:
        ModelError: the model or its adapter cannot be loaded.
        UsageError: this machine has fewer devices, or `train.reduce: exact` does not suit them.
        BackendMissing: the backend's packages are not installed.
    """
    import backends
    from backends.parallel.ranks import loaded_on_all, opened
    from backends.rollout_engines import get_engine
    from backends.shared.placement import here

    refuse_other_base(config)
    warning = config.adapter and untrained(Path(config.adapter))
    if warning:
        messages.warn(warning)
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as waiting:
        number = count(devices, config)
        waiting.enter_context(messages.working("loading the model"))
        workers = stack.enter_context(opened(number))
        config = _with_shard_decided(config, here().size, messages)
        config = _without_idle_teacher(config) if trainable else config
        try:
            backend = backends.get(config.backend)
            policy = stack.enter_context(
                loaded_on_all(config, trainable, workers, lambda: backend.load(config, trainable))
            )
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
        if not policy.tokenizer.has_chat_template:
            messages.warn(NO_CHAT_TEMPLATE)
        yield policy


def _with_shard_decided(config: Config, devices: int, messages: Messages) -> Config:
    """The config with `train.shard` decided, and said where it is not as one would expect."""
    from opsd_cli.planning.sharding import with_shard_decided

    decided = with_shard_decided(config, devices)
    if decided.train.shard == "full" and devices == 1:
        messages.note("train.shard is full, and there is one device: the base is whole on it")
    elif decided.train.shard != "none" and config.train.shard == "auto":
        messages.note(
            "train.shard is auto: by the memory plan the base does not fit one device, so "
            f"{devices} devices divide it"
        )
    return decided


def _without_idle_teacher(config: Config) -> Config:
    """The config without `teacher.model` where its method asks no teacher: GRPO, SFT."""
    if config.teacher.model is None or methods.teacher_model(config) is not None:
        return config
    teacher = config.teacher.model_copy(update={"model": None, "quantize": "none"})
    return config.model_copy(update={"teacher": teacher})


def _made_for_another_base(error: ModelError, config: Config) -> ModelError:
    """The error, with the adapter's base model as the cause if that is not the config's model."""
    base = config.adapter and base_model_of(Path(config.adapter))
    if not base or base == config.model or "adapter" not in error.message:
        return error
    return other_base(config, base, error.message)
