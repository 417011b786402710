"""Which server gets which completion: the one with the fewest tokens under way.

A completion's tokens depend on its seed alone, so routing changes none. A request whose server
fails goes to another one, and waits while every server is being repaired. A connection that breaks
is a failure at once while another server can take its requests; the last server is asked again for
a while (`backends.vllm.client`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial

from backends.vllm.client import Client
from backends.vllm.pool import ServerPool
from backends.vllm.replica import AdapterLost, Replica
from backends.vllm.server_errors import ServerUnavailable


@dataclass(eq=False)
class Lane:
    """A server that takes requests, from its last repair to its next failure.

    Attributes:
        client: of these requests alone, which can be cancelled together.
        outstanding: tokens of the prompts and of the longest completions that are under way.
        taken: requests so far; decides between equals.
    """

    replica: Replica
    client: Client
    outstanding: int = 0
    taken: int = 0


class Router:
    """The lanes of one list of requests. Thread-safe.

    Args:
        pool: the servers.
        replicas: those that are ready.
        adapter: the name of the adapter that samples; None for the base model.
    """

    def __init__(self, pool: ServerPool, replicas: list[Replica], adapter: str | None) -> None:
        self._pool = pool
        self._adapter = adapter
        self._changed = threading.Condition()
        self._lanes = [self._lane(replica) for replica in replicas]
        self._over = False
        #: What ended the requests, if not their success.
        self.failure: Exception | None = None

    def _lane(self, replica: Replica) -> Lane:
        lane = Lane(replica, replica.client.copy())
        lane.client.hands_over = partial(self.failed, lane, if_others=True)
        return lane

    def acquire(self, tokens: int) -> Lane:
        """The lane with the fewest outstanding tokens, to which these are added.

        Waits while every server is being repaired.

        Raises:
            ServerUnavailable: the requests have ended; `failure` is the reason.
        """
        with self._changed:
            while not self._lanes and not self._over:
                self._changed.wait()
            if self._over:
                raise ServerUnavailable("it was told to end")
            lane = min(self._lanes, key=lambda lane: (lane.outstanding, lane.taken))
            lane.outstanding += tokens
            lane.taken += 1
            return lane

    def uses(self, lane: Lane) -> bool:
        """True if a lane's requests were not cancelled, so that a failure is the server's."""
        with self._changed:
            return lane in self._lanes

    def release(self, lane: Lane, tokens: int) -> None:
        """Take tokens off a lane whose request has ended."""
        with self._changed:
            lane.outstanding -= tokens

    def failed(
        self, lane: Lane, error: AdapterLost | ServerUnavailable, if_others: bool = False
    ) -> bool:
        """Cancel a lane's requests and repair its server aside; only its first failure counts.

        Args:
            if_others: only while another lane can take the requests.

        Returns:
            False if the lane stays, being the last one.
        """
        with self._changed:
            if self._over or lane not in self._lanes:
                return True
            if if_others and len(self._lanes) == 1:
                return False
            self._lanes.remove(lane)
        lane.client.cancel_requests()
        self._pool.repair_aside(lambda: self._repair(lane.replica, error))
        return True

    def _repair(self, replica: Replica, error: AdapterLost | ServerUnavailable) -> None:
        try:
            if not self._pool.bring(replica, self._adapter, error):
                return
            canary = self._pool.canary
            if canary is not None:
                canary.compare(self._proven(replica), self._adapter)
        except Exception as failure:
            self.end(failure)
            return
        with self._changed:
            if not self._over:
                self._lanes.append(self._lane(replica))
                self._changed.notify_all()

    def _proven(self, replica: Replica) -> list[Replica]:
        """A repaired server and those that are sampling."""
        with self._changed:
            return [replica, *(lane.replica for lane in self._lanes)]

    def end(self, failure: Exception | None = None) -> None:
        """Cancel every request that is under way, and refuse new ones."""
        with self._changed:
            if not self._over:
                self._over, self.failure = True, failure
            lanes, self._lanes = self._lanes, []
            self._changed.notify_all()
        for lane in lanes:
            lane.client.cancel_requests()
