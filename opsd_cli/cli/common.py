"""What every command does before its own work: read flags, resolve the config, load the model."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.console import Output
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError
from opsd_cli.files.json_files import read_object
from opsd_cli.training.checkpoints import whole_checkpoint
from opsd_cli.training.run_directory import CONFIG, best_checkpoint

if TYPE_CHECKING:
    from backends import Choice
    from backends.interface import Policy

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Request:
    """The common flags of a command, as typed."""

    config_name: str | None
    assignments: tuple[str, ...]
    flags: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    out: Output = field(default_factory=Output)

    def config(self, inherit: bool = False, base: Path | None = None) -> Config:
        """The resolved config.

        With `inherit` and `--adapter RUN`, the run's own config is what the one named is laid
        over, so that its model, prompts and sampling need not be repeated. `base` names such a
        config outright.
        """
        flags = dict(self.flags)
        if flags.get("adapter"):
            given = Path(flags["adapter"]).expanduser()
            flags["adapter"] = str(adapter_folder(given))
            if inherit and base is None and (given / CONFIG).is_file():
                base = given / CONFIG
        return resolve(self.config_name, self.assignments, flags, base)

    def without(self, flag: str) -> Request:
        """The request as if a flag had not been typed."""
        return replace(self, flags={k: v for k, v in self.flags.items() if k != flag})

    @property
    def changes_anything(self) -> bool:
        """Whether any flag or `--set` changes the config."""
        return bool(self.config_name or self.assignments or _given(self.flags))


def request(
    config: str | None,
    assignments: Sequence[str] | None,
    backend: str | None,
    model: str | None,
    adapter: str | None,
    seed: int | None,
    json: bool,
    quiet: bool,
    dry_run: bool,
    trust: bool = False,
    method: str | None = None,
    samples: int | None = None,
    log: Sequence[str] | None = None,
) -> Request:
    """Gather the common flags."""
    flags = {
        "backend": backend,
        "model": model,
        "adapter": adapter,
        "seed": seed,
        "method": method,
        "log": [name for given in log for name in given.split(",")] if log else None,
        "trust_remote_code": trust or None,
        "evaluation": {"samples": samples},
    }
    return Request(config, tuple(assignments or ()), flags, dry_run, Output(json, quiet))


def _given(tree: dict[str, Any]) -> bool:
    return any(_given(v) if isinstance(v, dict) else v is not None for v in tree.values())


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


def choose_backend(config: Config, out: Output) -> tuple[Config, Choice]:
    """Choose the backend, say why, and write it into the config."""
    import backends

    choice = backends.choose(config.backend)
    out.note(f"backend {choice.name}: {choice.reason}")
    return config.model_copy(update={"backend": choice.name}), choice


@contextlib.contextmanager
def loaded_policy(
    config: Config, out: Output, trainable: bool, folder: Path | None = None
) -> Iterator[Policy]:
    """The model on the chosen backend, with the engine that is to draw its rollouts.

    Args:
        folder: where an engine of its own process may keep files; by default a temporary one.
    """
    import backends
    from backends.engines import get_engine

    with contextlib.ExitStack() as stack, contextlib.ExitStack() as waiting:
        waiting.enter_context(out.working("loading the model"))
        try:
            policy = backends.get(config.backend).load(config, trainable)
        except ModelError as error:
            raise _of_another_base(error, config) from error
        engine = get_engine(config.rollouts.engine)
        if engine.separate_from_trainer:
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            out.note(f"waiting for {engine.title}")
            policy = stack.enter_context(engine.attached(config, policy, folder, out.warn))
        waiting.close()
        out.note(f"model {config.model}: {policy.description}")
        yield policy


def _of_another_base(error: ModelError, config: Config) -> ModelError:
    """The same error; of an adapter that was made for another model, with that as the cause."""
    folder = config.adapter and Path(config.adapter)
    settings = read_object(folder / ADAPTER_CONFIG) if folder else None
    base = (settings or {}).get("base_model_name_or_path")
    if not base or base == config.model or "adapter" not in error.message:
        return error
    return ModelError(
        error.message,
        f"it was made for the model {base}, and this is {config.model}: check --model",
    )


def with_recommended(config: Config, out: Output) -> tuple[Config, str]:
    """The config with `evaluation.sampling: recommended` made numbers, and where those come from.

    Raises:
        ConfigError: the model's authors recommend nothing.
        ModelError: its config.json cannot be read.
    """
    if config.evaluation.sampling != "recommended":
        return config, "as configured"
    from backends.shared.model_files import read_generation_settings, read_settings
    from opsd_cli.evaluation.recommended_sampling import recommended

    where = config.model_path
    found = recommended(
        config.model,
        read_settings(where, config.revision),
        read_generation_settings(where, config.revision),
        config.thinks,
    )
    numbers = {name: getattr(found, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    out.note(
        f"sampling at temperature {found.temperature:g}, top-p {found.top_p:g}, "
        f"top-k {found.top_k}: {found.source}"
    )
    changed = config.evaluation.model_copy(update=numbers)
    return config.model_copy(update={"evaluation": changed}), found.source


def is_terminal() -> bool:
    """Whether messages go to a person's screen."""
    return sys.stderr.isatty()
