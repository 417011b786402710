"""The adapter that a path stands for: a folder of adapter files, or a checkpoint of a run.

A run has one checkpoint that validation chose (`best`), a newest one (`last`), and those of the
steps that were kept. What an adapter's files say of the model that it was trained on is read here
too, so that an adapter need not be given its model, and is not put on another one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from opsd_cli.embedded import EMBEDDED, MODEL_DIR
from opsd_cli.errors import ModelError, UsageError
from opsd_cli.files.json_files import read_object
from opsd_cli.training.checkpoints import FOLDER, STATE, Checkpoints, step_of, whole_checkpoint
from opsd_cli.training.run_directory import CONFIG, best_checkpoint

if TYPE_CHECKING:
    from opsd_cli.config.schema import Config

ADAPTER_CONFIG = "adapter_config.json"
BEST, LAST = "best", "last"
#: Keys of a model's config.json that are the same in a model and in its quantised copies.
SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
#: Steps that an error lists; of more, the first and the last ones.
MOST_LISTED = 8


def adapter_folder(given: Path, checkpoint: str | int | None = None) -> Path:
    """The folder of adapter files that a path stands for: itself, or a checkpoint of a run.

    Args:
        checkpoint: which one of a run: "best" (the default), "last", or a step.

    Raises:
        ModelError: there is no adapter, or the run has no such checkpoint.
        UsageError: `checkpoint` is neither of the two words nor a step, or the path is no run.
        RunError: the checkpoint is damaged.
    """
    which = _which(checkpoint)
    if (given / ADAPTER_CONFIG).is_file():
        if which is not None:
            raise UsageError(
                f"{given} is one adapter, and not a run with checkpoints to choose from",
                f"leave out the checkpoint ({which}), or give the run's directory",
            )
        return whole_checkpoint(given)
    if not given.exists():
        raise ModelError(f"there is no adapter at {given}", "give a run's or an adapter's folder")
    there = Checkpoints(given).all()
    if not there and (given / CONFIG).is_file():
        raise ModelError(
            f"the run in {given} holds no checkpoint",
            "a run writes its first one after the preflight: "
            f"opsd train --resume --out {given} goes on with it",
        )
    if not there:
        raise ModelError(
            f"{given} holds no adapter: neither {ADAPTER_CONFIG} nor a run's `best`",
            "give a run's directory, or a folder with adapter_config.json",
        )
    return whole_checkpoint(_of_run(given, BEST if which is None else which, there))


def _which(checkpoint: str | int | None) -> str | int | None:
    """`checkpoint` as a word or a step.

    Raises:
        UsageError: it is neither.
    """
    text = str(checkpoint).strip()
    if checkpoint is None or text in (BEST, LAST):
        return None if checkpoint is None else text
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(
            f"a checkpoint is {BEST}, {LAST} or a step, not {text!r}",
            f"give --checkpoint {BEST}, --checkpoint {LAST} or --checkpoint 25",
        )
    return int(text)


def _of_run(run: Path, which: str | int, there: list[Path]) -> Path:
    """The checkpoint of a run by word or step; `there` are all of them, oldest first."""
    if which == LAST:
        return there[-1]
    if which == BEST:
        found = best_checkpoint(run)
        problem = f"{run} does not have the checkpoint that validation chose"
    else:
        found = next((path for path in there if step_of(path) == which), None)
        problem = f"the run in {run} has no checkpoint of step {which}"
    if found is None:
        steps = [str(step_of(path)) for path in there]
        if len(steps) > MOST_LISTED:
            half = MOST_LISTED // 2
            steps = [*steps[:half], "...", *steps[-half:]]
        raise ModelError(f"{problem}; it has {', '.join(steps)}", "give one of them, or last")
    return found


def run_of(adapter: Path) -> Path | None:
    """The run that a checkpoint's folder belongs to; None for any other folder."""
    path = adapter.absolute()
    if step_of(path) is None or path.parent.name != FOLDER:
        return None
    # The path as given, so that messages show what was typed.
    run = adapter.parent.parent if len(adapter.parts) > 2 else path.parent.parent
    return run if (run / CONFIG).is_file() else None


def untrained(adapter: Path) -> str | None:
    """A warning if a checkpoint is step 0 of a run in which no later step was better.

    Returns:
        One sentence with the checkpoint to take instead; None where training changed the weights,
        or where no later checkpoint exists.
    """
    run = run_of(adapter)
    if run is None or step_of(adapter) != 0:
        return None
    newest = Checkpoints(run).newest()
    state = (newest and read_object(newest / STATE)) or {}
    if state.get("best_step") != 0 or not state.get("step"):
        return None
    return (
        f"{adapter} holds the untrained weights: no later step was better on validation; "
        f"--adapter {run} --checkpoint last takes step {state['step']} instead"
    )


def base_model_of(adapter: Path) -> str | None:
    """The model that an adapter was trained on, by its files; None if they do not say."""
    settings = read_object(adapter / ADAPTER_CONFIG) or {}
    name = settings.get("base_model_name_or_path") or settings.get("model")
    if not isinstance(name, str) or not name.strip():
        return None
    # The embedded model's folder is another one in each installation.
    return EMBEDDED if Path(name).parts[-3:] == MODEL_DIR.parts[-3:] else name


def refuse_other_base(config: Config) -> None:
    """Check a config's adapter against its model, without loading either.

    Two names may be one model (a copy, a quantised one), so only shapes can show that they are
    not; of two models on the hub the adapter's tensors have to tell when they are loaded.

    Raises:
        ModelError: the adapter was trained on a model of another shape.
    """
    base = config.adapter and base_model_of(Path(config.adapter))
    if not base or base == config.model:
        return
    theirs, ours = _shape(base), _shape(config.model)
    differing = [key for key in SHAPE if theirs.get(key) != ours.get(key)]
    if theirs and ours and differing:
        key = differing[0]
        raise other_base(config, base, f"its {key} is {theirs.get(key)}, here {ours.get(key)}")


def other_base(config: Config, base: str, why: str) -> ModelError:
    """The error for an adapter of another model, with both names."""
    return ModelError(
        f"the adapter {config.adapter} was made for the model {base}, and this is "
        f"{config.model}: {why}",
        f"leave out --model, or give --model {base}",
    )


def _shape(model: str) -> dict[str, object]:
    """`SHAPE` of a model that is a folder here; empty for any other."""
    folder = MODEL_DIR if model == EMBEDDED else Path(model).expanduser()
    settings = read_object(folder / "config.json") or {}
    text = settings.get("text_config")  # where a model reads images too
    found = {**settings, **text} if isinstance(text, dict) else settings
    return {key: found[key] for key in SHAPE if key in found}
