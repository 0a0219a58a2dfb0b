"""What a router remembers between requests: the prefix index, and what the configured policy needs beside it.

Nothing here grows with traffic: replicas that leave are forgotten, the rest is bounded for each of them.
"""

from collections import deque
from collections.abc import Iterable

from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.pool import ReplicaId
from cluster.policy.routing.replicas.prefix_index import PrefixIndex

_WINDOW_S = 180.0
"""Preble's window."""
_WINDOW_ENTRIES_MAX = 8192
"""For one replica: 45 requests a second for three minutes. What is older is forgotten sooner."""
_NEWS_MAX = 1024
"""Prompts of which other routers are told at a time; the oldest of more are not told."""

News = tuple[ReplicaId, tuple[int, ...]]
"""A replica, and the hashes of a prompt that it has computed."""


class ReplicaMemory:
    """The memory of one router."""

    def __init__(self, config: ReplicaRoutingConfig, *, shared: bool = False) -> None:
        """Remember nothing yet.

        Args:
            config: policy and bounds.
            shared: whether other routers are to be told what was computed where.
        """
        self._news: deque[News] | None = deque(maxlen=_NEWS_MAX) if shared else None
        self._policy = config.policy
        self._speculative_s = config.prefix_speculative_s
        self.prefixes = PrefixIndex(config.prefix_blocks_per_replica_max)
        self._turn = 0
        self._turns: dict[ReplicaId, int] = {}
        self._windows: dict[ReplicaId, deque[tuple[float, int]]] = {}
        self._window_tokens: dict[ReplicaId, int] = {}

    def recall(self, replicas: Iterable[ReplicaId], now_s: float) -> dict[ReplicaId, float]:
        """What the configured policy wants to know of each replica; empty for policies without memory."""
        if self._policy == "round_robin":
            return {replica: float(self._turns.get(replica, 0)) for replica in replicas}
        if self._policy in {"sglang_cache_aware", "ray_prefix_affinity"}:
            return {replica: float(self.prefixes.taken_in(replica)) for replica in replicas}
        if self._policy == "preble":
            return {replica: float(self._sent_lately(replica, now_s)) for replica in replicas}
        return {}

    def sent(
        self,
        replica: ReplicaId,
        hashes: tuple[int, ...],
        *,
        uncached_tokens: int,
        ttft_s: float,
        now_s: float,
    ) -> None:
        """A request was sent.

        Args:
            replica: where.
            hashes: of its prompt's leading blocks. Until its first token they are believed to be there for
                `prefix_speculative_s` longer than that token is predicted to take.
            uncached_tokens: what has to be computed of it there.
            ttft_s: predicted time to its first token.
            now_s: when.
        """
        self.prefixes.record(replica, hashes, until_s=now_s + ttft_s + self._speculative_s)
        if self._policy == "round_robin":
            self._turn += 1
            self._turns[replica] = self._turn
        elif self._policy == "preble":
            window = self._windows.setdefault(replica, deque())
            window.append((now_s, uncached_tokens))
            tokens = self._window_tokens.get(replica, 0) + uncached_tokens
            if len(window) > _WINDOW_ENTRIES_MAX:
                tokens -= window.popleft()[1]
            self._window_tokens[replica] = tokens

    def answered(self, replica: ReplicaId, hashes: tuple[int, ...]) -> None:
        """A first token came: the prompt's blocks are there."""
        self.prefixes.record(replica, hashes)
        if self._news is not None and hashes:
            self._news.append((replica, hashes))

    def take_news(self) -> tuple[News, ...]:
        """What was computed where since the last call, for the other routers."""
        if self._news is None:
            return ()
        news = tuple(self._news)
        self._news.clear()
        return news

    def hear(self, news: Iterable[News]) -> None:
        """Take in what another router found computed."""
        for replica, hashes in news:
            self.prefixes.record(replica, hashes)

    def forget(self, replica: ReplicaId) -> None:
        """A replica left, or its cache is gone; unknown ones are fine."""
        self.prefixes.forget(replica)
        self._turns.pop(replica, None)
        self._windows.pop(replica, None)
        self._window_tokens.pop(replica, None)

    def _sent_lately(self, replica: ReplicaId, now_s: float) -> int:
        window = self._windows.get(replica)
        if not window:
            return 0
        tokens = self._window_tokens[replica]
        while window and window[0][0] < now_s - _WINDOW_S:
            tokens -= window.popleft()[1]
        self._window_tokens[replica] = tokens
        return tokens
