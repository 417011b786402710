"""The beginning that the prompts of a call share, which is read once: examples, instructions.

Keys and values of a token depend on the tokens before it alone, so one copy of them serves every
prompt. What is computed is equal but for rounding. So that rounding does not depend on which
requests happen to be drawn together, the beginning is divided off in the same place for all
requests of a call, also for those of another process, and nearly always in other calls too.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.interface import RolloutRequest

SHARED_AT_LEAST = 64
"""Tokens that all prompts of a call must begin with before they are read once for all of them."""
SHARED_MULTIPLE = 16
"""The shared beginning is cut to a multiple of so many tokens, so that two calls with the same
worked examples and other questions nearly always divide their prompts at the same token."""


def shared_tokens(requests: Sequence[RolloutRequest]) -> int:
    """How many leading tokens of the prompts are read once for all requests; 0 for none.

    A prompt's last token is never among them: it is read with the first token drawn.
    """
    if requests and requests[0].shared is not None:
        return requests[0].shared
    prompts = {request.prompt_ids for request in requests}
    if len(prompts) < 2:
        return 0
    shortest = min(map(len, prompts))
    first, last = min(prompts), max(prompts)  # what they share, those between them share too
    pairs = enumerate(zip(first, last, strict=False))
    differs = next((place for place, (one, other) in pairs if one != other), shortest)
    common = min(differs, shortest - 1)
    common -= common % SHARED_MULTIPLE
    return common if common >= SHARED_AT_LEAST else 0
