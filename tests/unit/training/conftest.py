"""Runs that the tests of resuming begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_cli.errors import Interrupted
from tests.support.fakes import StopAfter
from tests.support.training_runs import ROLLOUTS_OF_A_RUN, begin, learner


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted. Not to be changed: copy it first."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    policy = learner()
    result = begin(directory, policy=policy)
    assert len(policy.drawn) == ROLLOUTS_OF_A_RUN and result.best_step == 6
    return directory


@pytest.fixture
def stopped_run(tmp_path: Path) -> Path:
    """A run stopped after step 4, with checkpoints of steps 0, 2 and 4."""
    stop = StopAfter(4)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", listener=stop, stop=stop)
    return tmp_path / "run"
