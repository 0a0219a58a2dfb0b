"""Notices a user who asks the same again: whatever the first answer was, it was not what was wanted."""

import hashlib
from collections import OrderedDict

from cluster.config.model_learning import AutomaticSignalsConfig


class RetryMemory:
    """Who asked what lately, as hashes; bounded in number and time."""

    def __init__(self, config: AutomaticSignalsConfig) -> None:
        self._config = config
        self._latest: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def earlier(self, tenant: str, text: str, decision_id: str, *, now_s: float) -> str | None:
        """The decision on the same words of the same tenant a moment ago; this one takes its place."""
        if not text or not self._config.retry_weight:
            return None
        key = hashlib.sha256(f"{tenant}\0{text}".encode()).digest()[:16]
        before = self._latest.pop(key, None)
        self._latest[key] = (decision_id, now_s)
        if len(self._latest) > self._config.retry_memory_max:
            self._latest.popitem(last=False)
        if before is None or now_s - before[1] > self._config.retry_window_s:
            return None
        return before[0]
