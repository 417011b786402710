"""vLLM in the registry of rollout engines; the client and the server are imported when used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.interface import Policy
    from opsd_cli.config.schema import Config


class VllmEngine:
    """A vLLM server, in a process of its own, that gets the adapter after each step."""

    title = "vLLM"
    separate_from_trainer = True

    def require(self, config: Config) -> None:
        """See `backends.rollout_engines.RolloutEngine`; a server that runs already is not asked."""
        if config.rollouts.vllm.url is None:
            from backends.vllm.server import require_vllm

            require_vllm(config)

    @contextlib.contextmanager
    def attached(
        self, config: Config, policy: Policy, folder: Path, tell: Callable[[str], None]
    ) -> Iterator[Policy]:
        """See `backends.rollout_engines.RolloutEngine`; a server that was started is ended."""
        from backends.vllm.policy import VllmPolicy

        vllm_policy = VllmPolicy(config, policy, folder, tell=tell)
        try:
            yield vllm_policy
        finally:
            vllm_policy.close()
