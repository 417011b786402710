"""Which items of a call are whose. The rules know lengths alone, so that every process, and every
number of processes, deals alike.

A *unit* is a fixed group of a loss batch's items. With `train.reduce: exact` a batch has always
`UNITS` of them, whatever the number of ranks: each unit's gradient is added up in item order, and
the units in their order, so the sum has the same bits on 1, 2, 4 or 8 ranks.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace

from backends.interface import RolloutRequest
from backends.shared.shared_prompts import shared_tokens

UNITS = 8
"""Units of a batch under `train.reduce: exact`; the number of ranks must divide it."""


def deal(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Indices of items in `parts` groups of about equal total length; a group may be empty.

    The longest first, each to the group that has least so far (Graham's rule, 1969); indices in a
    group ascend.

    Args:
        lengths: tokens of each item.
    """
    groups: list[list[int]] = [[] for _ in range(parts)]
    totals = [(0, 0, part) for part in range(parts)]
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        total, count, part = heapq.heappop(totals)
        groups[part].append(index)
        heapq.heappush(totals, (total + lengths[index], count + 1, part))
    return [sorted(group) for group in groups]


def block(parts: int, size: int, rank: int) -> range:
    """The consecutive parts that a rank has, of `parts`, which `size` divides."""
    each = parts // size
    return range(rank * each, (rank + 1) * each)


def deal_requests(requests: Sequence[RolloutRequest], size: int) -> list[list[RolloutRequest]]:
    """Requests of each rank. Samples of one prompt stay together where there are prompts enough, so
    that each prompt is read once.

    A completion's length is not known before; a request counts as its prompt and an equal share of
    decoding, so the ranks get about the same number of each. Each request is told what all of them
    share, so that every rank divides its prompts where one process would.
    """
    shared = shared_tokens(requests)
    requests = [replace(request, shared=shared) for request in requests]
    of_prompt: dict[tuple[int, ...], list[RolloutRequest]] = {}
    for request in requests:
        of_prompt.setdefault(request.prompt_ids, []).append(request)
    groups = list(of_prompt.values())
    if len(groups) < 2 * size:
        groups = [[request] for request in requests]
    longest = max((len(group[0].prompt_ids) for group in groups), default=0)
    weights = [len(group) * (longest + len(group[0].prompt_ids)) for group in groups]
    return [
        [request for index in part for request in groups[index]] for part in deal(weights, size)
    ]
