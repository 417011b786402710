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

    def planned(self, config: Config) -> str:
        """See `backends.rollout_engines.Plans`."""
        settings = config.rollouts.vllm
        if settings.url is not None:
            urls = settings.addresses
            return f"{_servers(len(urls))} at {', '.join(urls)}"
        groups = settings.device_groups
        started = f"{_servers(len(groups))} started here"
        if settings.devices is None:
            return f"{started}, on the GPUs that the trainer sees"
        return f"{started}, on the GPUs {' and '.join(map(str, groups))}"

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


def _servers(number: int) -> str:
    return "1 vLLM server" if number == 1 else f"{number} vLLM servers"
