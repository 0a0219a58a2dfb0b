"""What arrives at one router and what becomes of it, in the sums that the provisioner forecasts from."""

from collections import Counter

from cluster.config import TidemillConfig
from cluster.config.pools import SimulatedEngine
from cluster.entities.decision import DecisionRecord
from cluster.entities.fleet import DemandWindow, ModelBacklog
from cluster.entities.routing import Path
from cluster.policy.observation import DemandTally, added
from deployments.messages import DemandReport


class RouterDemand:
    """Sums since the router started."""

    def __init__(self, config: TidemillConfig, router_id: str) -> None:
        self._config = config
        self._router_id = router_id
        self._tally = DemandTally(config)
        self._longest_tokens = {
            model: longest for model in config.models if (longest := _longest_tokens(config, model))
        }
        """Of prompts that a model's engines take, where all of its pools say so."""
        self._total = DemandWindow(started_at_s=0.0, ended_at_s=0.0)
        self.results: Counter[tuple[str, str]] = Counter()
        """Requests by model and what their users got: `met` or `missed` objectives, or `failed`."""

    def arrived(self, model: str, prompt_tokens: int) -> None:
        """A request needs an engine.

        A prompt that is too long for all engines is refused by the first one. Counted as long as it is, a
        single one would wake the whole fleet.
        """
        self._tally.arrived(model, min(prompt_tokens, self._longest_tokens.get(model, prompt_tokens)))

    def finished(self, record: DecisionRecord) -> None:
        """A request is over."""
        signals = record.signals
        self._judge(record)
        if record.path is Path.CACHED:
            self._tally.cache_hit(signals.model, signals.prompt_tokens)
        elif record.status == 200 and record.path is not None and record.output_tokens > 0:
            self._tally.completed(
                signals.model,
                record.prompt_tokens or signals.prompt_tokens,
                record.cached_tokens or 0,
                record.output_tokens,
                slo_met=self._in_time(record),
            )

    def _judge(self, record: DecisionRecord) -> None:
        model = record.signals.model
        if model not in self._config.models:
            return
        if record.status == 200:
            in_time = record.path is Path.CACHED or self._in_time(record)
            self.results[model, "met" if in_time else "missed"] += 1
        elif record.status == 429 or record.status >= 500:
            self.results[model, "failed"] += 1

    def _in_time(self, record: DecisionRecord) -> bool:
        slo = self._config.models[record.signals.model].slo
        ttft_s, tpot_s = record.timeline.ttft_s, record.timeline.tpot_s
        if not record.signals.stream:
            return True  # nobody saw when its tokens came
        return (ttft_s is None or ttft_s <= slo.ttft_s) and (tpot_s is None or tpot_s <= slo.tpot_s)

    def totals(self) -> DemandWindow:
        """The sums so far."""
        self._total = added((self._total, self._tally.take(0.0, 0.0)), started_at_s=0.0, ended_at_s=0.0)
        return self._total

    def report(self, waiting: dict[str, int]) -> DemandReport:
        """The sums so far, and what waits now by model."""
        backlog = tuple(ModelBacklog(model=model, requests=count) for model, count in sorted(waiting.items()))
        return DemandReport(router_id=self._router_id, classes=self.totals().classes, backlog=backlog)


def _longest_tokens(config: TidemillConfig, model: str) -> int | None:
    pools = [pool for pool in config.pools.values() if pool.model == model]
    said = [
        pool.engine.max_model_len
        if isinstance(pool.engine, SimulatedEngine)
        else pool.engine.args.get("max_model_len")
        for pool in pools
    ]
    lengths = [length for length in said if isinstance(length, int) and length > 0]
    return max(lengths) if lengths and len(lengths) == len(pools) else None
