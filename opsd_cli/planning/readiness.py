"""What would stop a run before its first token, found without loading weights: for `--dry-run`.

The checks are those of the run itself, so that messages and exit codes are the same. A backend that
is missing here is none of them: a plan may be for another machine. What only the network could
tell is warned of, unless offline mode is asked for, in which the run could not ask either.
"""

from __future__ import annotations

from pathlib import Path

from opsd_cli import hub, methods
from opsd_cli.adapters import refuse_other_base, untrained
from opsd_cli.config.schema import Config
from opsd_cli.embedded import EMBEDDED
from opsd_cli.errors import ModelNotAtHand
from opsd_cli.grading import check_grader
from opsd_cli.planning.teacher_checks import require_teacher
from opsd_cli.problems.sources import Splits, load_splits
from opsd_cli.tracking.listener import Messages


def require_ready(config: Config, messages: Messages, learns: bool) -> None:
    """Check the adapter, the rollout engine, and the files of the model and of its teacher's.

    Args:
        learns: True for training, which makes an adapter if the config names none.

    Raises:
        ModelError: there is no such model, one of its files cannot be used, `lora.targets` names
            a layer that it does not have, or `teacher.model` has another vocabulary.
        ConfigError: the grader cannot be used.
        UsageError, BackendMissing: the rollout engine cannot be used.
    """
    from backends.rollout_engines import get_engine

    check_grader(config.grading)
    refuse_other_base(config)
    warning = config.adapter and untrained(Path(config.adapter))
    if warning:
        messages.warn(warning)
    try:
        _require_model(config, learns)
        if learns:
            require_teacher(config, messages)
    except ModelNotAtHand as error:
        if not hub.offline_by_choice():
            messages.warn(f"planned without the model, and the run would stop: {error.message}")
    get_engine(config.rollouts.engine).require(config)


def require_problems_at_hand(config: Config, splits: Splits | None) -> None:
    """Check, where offline mode is asked for, that the problems were found.

    Raises:
        DataNotAtHand: they are not in the cache.
    """
    if splits is None and hub.offline_by_choice():
        load_splits(config)


def require_model_at_hand(config: Config) -> None:
    """Check, where offline mode is asked for, that the model is in the cache.

    A plan can be made without the model, so this comes after it.

    Raises:
        ModelNotAtHand: it is not.
    """
    if not hub.offline_by_choice():
        return
    from backends.shared.model_files import model_folder

    for each in (config, methods.teacher_model(config)):
        if each is not None and each.model != EMBEDDED:
            model_folder(each)


def _require_model(config: Config, learns: bool) -> None:
    from backends.shared import weight_files
    from backends.shared.adapter_base import require_targets
    from backends.shared.model_files import load_tokenizer, model_folder, require_model
    from backends.shared.tokenizer import tokenizer_folder

    if config.model == EMBEDDED:
        folder = Path(config.model_path)
    elif hub.reach() and not Path(require_model(config.model_path)).is_dir():
        load_tokenizer(tokenizer_folder(config), config)  # no weights are downloaded for a plan
        return
    else:
        folder = model_folder(config)
        load_tokenizer(folder, config)
    if learns and config.adapter is None:
        paths = weight_files.linear_paths(folder)
        if paths is not None:
            require_targets(config.lora.targets, paths)
