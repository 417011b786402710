"""`teacher.model`: which settings go with it, and the config that loads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_cli import methods
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.config.teacher_section import name_and_revision
from opsd_cli.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("teacher.reference=none",), "needs teacher.model"),
        (("teacher.quantize=int8",), "needs teacher.model"),
        (("teacher.model=org/a", "teacher.weights=live"), "teacher.weights=live is of the student"),
        (("teacher.model=org/a", "teacher.weights=ema"), "teacher.weights=ema is of the student"),
        (
            ("teacher.model=org/a", "teacher.reference=none", "teacher.reason_first=true"),
            "needs a reference to write about",
        ),
    ],
)
def test_teacher_model_settings_that_exclude_each_other(
    settings: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        resolve(None, settings)
    assert refused.value.hint


def test_teacher_config_has_the_models_name_and_revision_and_no_adapter(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"model": "org/a", "revision": "main", "adapter": "b", "teacher": {"model": "org/c@v2"},
         "train": {"shard": "full", "dtype": "float32"}}
    )  # fmt: skip
    found = config.teacher_config
    assert found is not None
    assert (found.model, found.revision, found.adapter) == ("org/c", "v2", None)
    assert (found.train.shard, found.train.dtype) == ("none", "float32")
    assert found.teacher_config is None
    assert methods.teacher_model(config) == found
    assert methods.teacher_model(config.model_copy(update={"method": "grpo"})) is None
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert name_and_revision(str(folder)) == (str(folder), None)
    assert name_and_revision("org/c") == ("org/c", None)


def test_teacher_acting_weights() -> None:
    assert resolve().teacher.acting == "initial"
    assert resolve(None, ("teacher.model=none",)) == resolve()  # as an arm of --vary
    assert resolve(None, ("teacher.weights=ema",)).teacher.acting == "ema"
    assert resolve(None, ("teacher.model=embedded",)).teacher.acting == "model"
