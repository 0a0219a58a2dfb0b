"""The pager's own pages, for routers, the coordinator and people (`deployments.adapter_messages`)."""

from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import orjson

from cluster.entities.adapters import AdapterCatalogue, AdapterOutcome, AdapterPlacement
from cluster.metrics import adapters as metrics
from cluster.replay.codec import decoder, encode
from deployments.adapter_messages import (
    CATALOGUE_PATH,
    DELTA_PATH,
    LEARNED_PATH,
    MERGED_PATH,
    OUTCOMES_PATH,
    PLACEMENT_PATH,
    STATUS_PATH,
    ContributionReport,
    LearnedState,
    contributions_from_json,
)
from deployments.adapter_pager.pager import AdapterPager

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]

_JSON = (b"content-type", b"application/json")


class PagerPages:
    """Answers by method and path."""

    def __init__(self, pager: AdapterPager) -> None:
        self._pager = pager
        self._routes: dict[tuple[str, str], Callable[[MutableMapping[str, Any], bytes], Answer]] = {
            ("GET", STATUS_PATH): self._status,
            ("PUT", CATALOGUE_PATH): self._catalogue,
            ("PUT", PLACEMENT_PATH): self._placement,
            ("POST", OUTCOMES_PATH): self._outcomes,
            ("GET", LEARNED_PATH): self._learned,
            ("GET", DELTA_PATH): self._delta,
            ("PUT", MERGED_PATH): self._merged,
        }

    async def answer(self, scope: MutableMapping[str, Any], raw: bytes) -> Answer:
        """Status, headers and body."""
        route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            return _error(404, f"{scope['method']} {scope['path']} is not one of the pager's pages")
        try:
            return route(scope, raw)
        except (ValueError, TypeError, KeyError) as error:
            return _error(400, f"{scope['path']}: {error!r}")

    def _status(self, _: MutableMapping[str, Any], __: bytes) -> Answer:
        pager, plan = self._pager, self._pager.loop.plan
        adapters = [
            {
                "name": name,
                "sha256": entry.key,
                "tier": entry.tier.value,
                "in_host": entry.in_host,
                "pinned": entry.card.pinned,
                "bytes": entry.size,
                "rank": entry.facts.rank if entry.facts else 0,
                "source": entry.card.source,
                "running": len(entry.running),
                "parked": len(entry.waiters),
                "draining": entry.draining,
                "failure": entry.failure if entry.failures else "",
            }
            for name, entry in sorted(pager.shelf.by_name.items())
        ]
        return _json(
            {
                "source": pager.core.statistics.source,
                "catalogue_version": pager.catalogue_version,
                "placement": encode(pager.placement),
                "adapters": adapters,
                "leaving": [entry.card.name for entry in pager.shelf.leaving],
                "plan": None if plan is None else encode(plan),
                "page_ins": pager.loop.page_ins,
                "decode_stall_s": pager.loop.stalled_s,
                "evictions": pager.exported.total(metrics.ADAPTER_EVICTIONS),
                "failures": pager.exported.total(metrics.ADAPTER_FAILURES),
                "degraded": pager.exported.total(metrics.ADAPTER_DEGRADED),
                "refused": pager.exported.total(metrics.ADAPTER_REFUSED),
            }
        )

    def _catalogue(self, _: MutableMapping[str, Any], raw: bytes) -> Answer:
        catalogue: AdapterCatalogue = decoder(AdapterCatalogue)(orjson.loads(raw), "catalogue")
        return _json({"version": self._pager.set_catalogue(catalogue)})

    def _placement(self, _: MutableMapping[str, Any], raw: bytes) -> Answer:
        placement: AdapterPlacement = decoder(AdapterPlacement)(orjson.loads(raw), "placement")
        return _json({"version": self._pager.set_placement(placement)})

    def _outcomes(self, _: MutableMapping[str, Any], raw: bytes) -> Answer:
        decode = decoder(AdapterOutcome)
        outcomes = [decode(entry, f"outcomes[{place}]") for place, entry in enumerate(orjson.loads(raw))]
        return _json({"counted": self._pager.outcomes.learn(outcomes)})

    def _learned(self, scope: MutableMapping[str, Any], _: bytes) -> Answer:
        core = self._pager.core
        version = self._pager.version
        etag = f'"{version}"'
        if any(name == b"if-none-match" and value.decode() == etag for name, value in scope["headers"]):
            return 304, [(b"etag", etag.encode())], b""
        loading = [e.key for e in self._pager.shelf if e.waiters and e.key in core.keys and not e.in_slot]
        learned = LearnedState(
            version=version,
            estimates=core.estimates(),
            prices=core.prices(self._pager.running, loading),
            forced=core.forced() or "",
        )
        status, headers, body = _json(learned.to_json())
        return status, [*headers, (b"etag", etag.encode())], body

    def _delta(self, scope: MutableMapping[str, Any], _: bytes) -> Answer:
        ack = int(parse_qs(scope.get("query_string", b"").decode()).get("ack", ["0"])[0])
        core = self._pager.core
        report = ContributionReport(
            source=core.statistics.source,
            version=core.statistics.version,
            contributions=core.contributions(ack),
        )
        return _json(report.to_json())

    def _merged(self, _: MutableMapping[str, Any], raw: bytes) -> Answer:
        self._pager.merge(contributions_from_json(orjson.loads(raw)["contributions"]))
        return _json({"version": self._pager.core.statistics.version})


def _json(value: Any) -> Answer:
    return 200, [_JSON], orjson.dumps(value)


def _error(status: int, message: str) -> Answer:
    kind = "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": "adapter_pager"}}
    return status, [_JSON], orjson.dumps(body)
