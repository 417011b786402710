"""A process's rank by the variables of whoever started it, and the items that a rank gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.interface import RolloutRequest
from backends.parallel.dealing import UNITS, block, deal, deal_requests
from backends.shared.placement import Placement, recognised
from opsd_cli.errors import UsageError

LENGTHS = st.lists(st.integers(0, 50), max_size=40)


@pytest.mark.parametrize(
    ("environment", "placement"),
    [
        ({}, Placement()),
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
            Placement(3, 4, 1, 2, "torchrun"),
        ),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, Placement()),
        (
            {
                "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "7", "SLURM_LOCALID": "1",
                "SLURM_STEP_TASKS_PER_NODE": "4,3", "SLURM_NODEID": "1",
            },
            Placement(5, 7, 1, 3, "srun"),
        ),
        # The batch script itself: one process, though of a job of eight tasks.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Placement()),
        (
            {
                "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            },
            Placement(1, 2, 1, 2, "Open MPI"),
        ),
    ],
)  # fmt: skip
def test_placement_by_launcher(environment: dict[str, str], placement: Placement) -> None:
    assert recognised(environment) == placement


@pytest.mark.parametrize(
    "environment", [{"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "one", "WORLD_SIZE": "4"}]
)
def test_variables_without_a_meaning_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="RANK is"):
        recognised(environment)


@given(LENGTHS, st.sampled_from([1, 2, 3, 8]))
def test_every_item_is_dealt_once_and_no_part_is_far_ahead(lengths: list[int], parts: int) -> None:
    dealt = deal(lengths, parts)
    assert sorted(index for part in dealt for index in part) == list(range(len(lengths)))
    assert all(part == sorted(part) for part in dealt)
    totals = [sum(lengths[index] for index in part) for part in dealt]
    assert max(totals) - min(totals) <= max(lengths, default=0)


@given(st.sampled_from([1, 2, 4, 8]))
def test_blocks_cover_the_units_in_the_order_of_the_ranks(size: int) -> None:
    blocks = [unit for rank in range(size) for unit in block(UNITS, size, rank)]
    assert blocks == list(range(UNITS))


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 4))
def test_samples_of_a_prompt_stay_together_where_there_are_prompts_enough(
    prompts: int, samples: int, size: int
) -> None:
    requests = [
        RolloutRequest(f"p{p}", s, (p + 1,) * (p % 3 + 1), p * 10 + s)
        for p in range(prompts)
        for s in range(samples)
    ]
    dealt = deal_requests(requests, size)
    assert sorted(r.seed for part in dealt for r in part) == sorted(r.seed for r in requests)
    if prompts >= 2 * size:
        ranks_of = [{r.problem_id for r in part} for part in dealt]
        assert sum(len(ids) for ids in ranks_of) == prompts


def test_dealt_requests_know_what_all_prompts_share() -> None:
    begin = tuple(range(100))
    requests = [RolloutRequest(str(n), 0, (*begin, n), n) for n in (1, 2)]
    dealt = deal_requests(requests, 2)
    # Each rank has one prompt, and would find nothing shared.
    assert [[request.shared for request in part] for part in dealt] == [[96], [96]]
    assert sorted(request.seed for part in dealt for request in part) == [1, 2]
