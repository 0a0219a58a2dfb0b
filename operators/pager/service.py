"""The coordinator itself, without Ray: changes of the catalogue, and a round over all nodes now and then.

Nothing waits for it: nodes decide for themselves and routers choose from what nodes say. What it adds is that
adapters can be changed while the cluster runs, that nodes learn from each other, and that copies follow load.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from cluster.config import TidemillConfig
from cluster.entities.adapters import AdapterCard, AdapterCatalogue, AdapterPlacement
from cluster.entities.pool import ReplicaId, ReplicaPhase, ReplicaReport
from cluster.policy.paging.catalogue import card_of, ordered
from cluster.policy.paging.placement import PlacedAdapter, PlacementNode, place
from cluster.replay.codec import encode
from deployments.adapter_messages import CatalogueAnswer
from deployments.adapter_pager.files import AdapterFacts, AdapterFilesError
from deployments.adapter_pager.sources import AdapterSourceError
from deployments.messages import AdapterNode, FleetOverview, PublishedAdapters
from operators.pager.catalogue import (
    CatalogueError,
    CatalogueState,
    changed,
    check_fits,
    described,
    succeeding,
    with_configuration,
)
from operators.pager.gathering import Gathering
from operators.pager.load import AdapterLoad
from operators.pager.nodes import NodeAwayError, NodeStatus, PagerNode
from operators.pager.store import CoordinatorStore

logger = logging.getLogger("tidemill.adapters.coordinator")

FOLDER = "adapter-coordinator"
"""Of its files, in the state folder."""
_SAVE_EVERY_S = 10.0

Stage = Callable[[AdapterCard], Awaitable[AdapterFacts]]
"""Fetches an adapter's files and says what they are. May raise AdapterFilesError and AdapterSourceError."""


class Directory(Protocol):
    """What the coordinator needs of the fleet directory; raises OSError or TimeoutError while it is away."""

    async def overview(self) -> FleetOverview:
        """Replicas and demand."""

    async def publish_adapters(self, adapters: PublishedAdapters) -> None:
        """Tell routers."""


class PagerCoordinator:
    """All of it runs on one event loop."""

    def __init__(
        self,
        config: TidemillConfig,
        state_dir: Path,
        *,
        directory: Directory,
        stage: Stage,
        wall_s: Callable[[], float],
    ) -> None:
        """Read what an earlier one has left; nothing runs before `run`.

        Args:
            config: of the cluster.
            state_dir: where its files are.
            directory: of the fleet.
            stage: fetches adapters.
            wall_s: Unix time.
        """
        self._config = config
        self._directory = directory
        self._stage = stage
        self._wall_s = wall_s
        self._store = CoordinatorStore(
            state_dir / FOLDER,
            encoder=config.semantic_cache.encoder.model,
            dimension=config.adapters.paging.dimension,
        )
        before = self._store.load_catalogue()
        self._state = with_configuration(before, config)
        if before is None or before != self._state:
            self._state = self._next(self._state, self._state.catalogue.adapters)
            self._store.save_catalogue(self._state)
        fleet = config.adapters.fleet
        self._gathering = Gathering(self._store.load_learned(), contributions_max=fleet.contributions_max)
        self._load = AdapterLoad(half_life_s=fleet.load_half_life_s)
        self._nodes: dict[ReplicaId, AdapterNode] = {}
        self._placements: dict[ReplicaId, AdapterPlacement] = {}
        self._saved_at_s = 0.0
        self._turn = asyncio.Lock()
        """Changes of the catalogue are written one after the other."""
        self._session: aiohttp.ClientSession | None = None
        self._woken = asyncio.Event()

    @property
    def catalogue(self) -> AdapterCatalogue:
        """As it is now."""
        return self._state.catalogue

    async def run(self) -> None:
        """Visit all nodes, again and again."""
        period_s = self._config.adapters.fleet.round_period_s
        while True:
            try:
                await self.round()
            except Exception:
                logger.exception("round given up")
            self._woken.clear()
            try:
                async with asyncio.timeout(period_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Write what was gathered, and close connections."""
        await self._save_learned()
        if self._session is not None:
            await self._session.close()

    # Changes

    async def change(self, operation: str, name: str, fields: Mapping[str, Any]) -> CatalogueAnswer:
        """Add, update or remove an adapter; acknowledged only when it is on the disk.

        Args:
            operation: `add`, `update` or `remove`.
            name: of the adapter.
            fields: what is said of it; for `add` also `replace`, whether one of that name may be there.
        """
        try:
            card = await self._change(operation, name, fields)
        except CatalogueError as error:
            return _refused(error.status, error.code, str(error))
        except AdapterSourceError as error:
            return _refused(422, "adapter_source_failed", str(error))
        except AdapterFilesError as error:
            return _refused(422, "adapter_files_unusable", str(error))
        except OSError as error:
            return _refused(507, "not_written", f"The change could not be written and was not made: {error}")
        reached = await self._spread()
        content = {
            "object": "adapter",
            "catalogue_version": self.catalogue.version,
            "adapter": encode(card),
            "nodes": {"reached": reached[0], "known": reached[1]},
        }
        if operation == "remove":
            content["deleted"] = True
        return CatalogueAnswer(status=200, content=content, catalogue=self.catalogue)

    async def _change(self, operation: str, name: str, fields: Mapping[str, Any]) -> AdapterCard:
        known = self._card(name)
        if operation == "remove":
            async with self._turn:
                gone = self._existing(name)
                self._write([card for card in self.catalogue.adapters if card.name != name])
                return gone
        if operation == "add":
            given = {key: value for key, value in fields.items() if key != "replace"}
            entry = described(name, given, self._config)
            if known is not None and not fields.get("replace"):
                message = f"There is an adapter {name!r} already; update it, remove it, or say replace: true."
                raise CatalogueError(409, "adapter_exists", message)
        else:
            entry = changed(self._existing(name), fields)
        card = card_of(name, entry)
        if operation == "add" or known is None or {"source", "sha256"} & fields.keys():
            facts = await self._stage(card)
            card = replace(card, sha256=facts.sha256, rank=facts.rank, bytes=facts.bytes)
        else:
            card = replace(card, sha256=known.sha256, rank=known.rank, bytes=known.bytes)
        async with self._turn:
            before = self._card(name)
            if operation == "update" and before is None:
                self._existing(name)  # removed while its files were fetched
            if before is not None:
                card = succeeding(before, card)
            others = [other for other in self.catalogue.adapters if other.name != name]
            self._check_room(others)
            check_fits(card, [*others, card], self._config)
            self._write([*others, card])
        return card

    def _card(self, name: str) -> AdapterCard | None:
        return next((card for card in self.catalogue.adapters if card.name == name), None)

    def _existing(self, name: str) -> AdapterCard:
        card = self._card(name)
        if card is None:
            known = ", ".join(card.name for card in self.catalogue.adapters[:30]) or "none"
            raise CatalogueError(
                404, "adapter_not_found", f"There is no adapter {name!r}. Adapters: {known}."
            )
        return card

    def _check_room(self, others: list[AdapterCard]) -> None:
        limit = self._config.adapters.fleet.adapters_max
        if len(others) >= limit:
            message = f"The catalogue has {limit} adapters (adapters.fleet.adapters_max); remove one first."
            raise CatalogueError(409, "catalogue_full", message)

    def _next(self, state: CatalogueState, cards: tuple[AdapterCard, ...]) -> CatalogueState:
        # Not counted from 1: a coordinator that lost its files must not be older than what nodes have.
        version = max(state.catalogue.version + 1, int(self._wall_s() * 1000))
        return replace(state, catalogue=AdapterCatalogue(version=version, adapters=cards))

    def _write(self, cards: list[AdapterCard]) -> None:
        """Write first, change then. Raises OSError, and nothing has changed."""
        state = self._next(self._state, ordered(cards))
        self._store.save_catalogue(state)
        self._state = state

    async def _spread(self) -> tuple[int, int]:
        """Tell routers and nodes of the catalogue at once; how many nodes have it, of how many."""
        await self._publish()
        replicas = await self._replicas()
        reached = await asyncio.gather(*(self._give_catalogue(replica) for replica in replicas))
        self._woken.set()
        return sum(reached), len(replicas)

    async def _give_catalogue(self, replica: ReplicaReport) -> bool:
        try:
            return await self._node(replica).give_catalogue(self.catalogue) >= self.catalogue.version
        except NodeAwayError as error:
            logger.warning("%s has not taken the catalogue: %s", replica.replica_id, error)
            return False

    # Rounds

    async def round(self) -> None:
        """Visit every node once."""
        overview = await self._overview()
        if overview is None:
            return
        replicas = self._with_adapters(overview)
        self._load.take(overview.demand, now_s=self._wall_s())
        placed = self._placed(replicas)
        found = await asyncio.gather(*(self._visit(replica, placed) for replica in replicas))
        self._nodes = {node.replica_id: node for node, _ in found}
        self._gathering.forget([replica.replica_id for replica in replicas])
        self._placements = {name: self._placements[name] for name in self._nodes if name in self._placements}
        await self._complete([status for _, status in found if status is not None])
        if self._gathering.changed and self._wall_s() - self._saved_at_s >= _SAVE_EVERY_S:
            await self._save_learned()
        await self._publish()

    async def _visit(
        self, replica: ReplicaReport, placed: Mapping[str, tuple[str, ...]]
    ) -> tuple[AdapterNode, NodeStatus | None]:
        node, name = self._node(replica), replica.replica_id
        keys = placed.get(name, ())
        names = {card.sha256: card.name for card in self.catalogue.adapters if card.sha256}
        shown = AdapterNode(replica_id=name, placed=tuple(names[key] for key in keys if key in names))
        try:
            status = await node.status()
            version = status.catalogue_version
            if version != self.catalogue.version:
                version = await node.give_catalogue(self.catalogue)
            self._gathering.take(await node.seen_since(self._gathering.acknowledged(status.source)))
            news = self._gathering.news_for(name, status.source)
            if news:
                await node.tell(news)
            self._gathering.told(name, news)
            await self._give_placement(node, name, keys, status)
        except NodeAwayError as error:
            return replace(shown, error=str(error)), None
        return replace(shown, catalogue_version=version), status

    async def _give_placement(
        self, node: PagerNode, name: ReplicaId, keys: tuple[str, ...], status: NodeStatus
    ) -> None:
        known = self._placements.get(name)
        if known is not None and known.adapters == keys and status.placement_version >= known.version:
            return
        version = max(status.placement_version + 1, int(self._wall_s() * 1000))
        placement = AdapterPlacement(version=version, adapters=keys)
        await node.give_placement(placement)
        self._placements[name] = placement

    def _placed(self, replicas: list[ReplicaReport]) -> dict[str, tuple[str, ...]]:
        """Where copies should be; prefill and decode replicas each hold what their requests need."""
        adapters = [
            PlacedAdapter(
                key=card.sha256,
                base_model=card.base_model,
                load_per_s=self._load.per_s(card.name),
                pinned=card.pinned,
            )
            for card in self.catalogue.adapters
            if card.sha256
        ]
        found: dict[str, tuple[str, ...]] = {}
        for prefills in (True, False):
            nodes = [_placement_node(r, self._config) for r in replicas if r.role.answers is not prefills]
            found |= place(nodes, adapters)
        return found

    async def _complete(self, statuses: list[NodeStatus]) -> None:
        """Take from the nodes what files say of adapters that nobody has staged here."""
        told: dict[str, set[tuple[str, int, int]]] = {}
        for status in statuses:
            for name, sha256, rank, size in status.adapters:
                told.setdefault(name, set()).add((sha256, rank, size))
        async with self._turn:
            cards = []
            for card in self.catalogue.adapters:
                found = told.get(card.name, set())
                facts = next(iter(found)) if len(found) == 1 else None
                if facts is None or card.rank or (card.sha256 and card.sha256 != facts[0]):
                    cards.append(card)
                else:
                    cards.append(replace(card, sha256=facts[0], rank=facts[1], bytes=facts[2]))
            if tuple(cards) != self.catalogue.adapters:
                self._write(cards)
        self._gathering.keep({card.sha256 for card in self.catalogue.adapters if card.sha256})

    async def _save_learned(self) -> None:
        learned = self._gathering.to_keep()
        try:
            await asyncio.to_thread(self._store.save_learned, learned)
        except OSError as error:
            # Not acknowledged to the nodes, so they tell it again.
            logger.error("what was learnt is not written: %s", error)  # noqa: TRY400 - the trace says no more
            return
        self._gathering.kept(learned)
        self._saved_at_s = self._wall_s()

    async def _publish(self) -> None:
        published = PublishedAdapters(
            at_s=self._wall_s(), catalogue=self.catalogue, nodes=tuple(self._nodes.values())
        )
        try:
            await self._directory.publish_adapters(published)
        except (OSError, TimeoutError) as error:
            logger.warning("directory away: %s", error)

    async def _overview(self) -> FleetOverview | None:
        try:
            return await self._directory.overview()
        except (OSError, TimeoutError) as error:
            logger.warning("directory away: %s", error)
            return None

    async def _replicas(self) -> list[ReplicaReport]:
        overview = await self._overview()
        return [] if overview is None else self._with_adapters(overview)

    def _with_adapters(self, overview: FleetOverview) -> list[ReplicaReport]:
        pools = self._config.pools
        return [
            replica
            for replica in overview.replicas
            if replica.phase is ReplicaPhase.READY
            and replica.pool in pools
            and pools[replica.pool].adapters is not None
        ]

    def _node(self, replica: ReplicaReport) -> PagerNode:
        return PagerNode(replica.url, self._http, timeout_s=self._config.adapters.fleet.node_timeout_s)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return self._session


def _placement_node(replica: ReplicaReport, config: TidemillConfig) -> PlacementNode:
    limits = config.pools[replica.pool].adapters
    assert limits is not None  # noqa: S101 - the caller has looked
    return PlacementNode(
        node=replica.replica_id,
        base_model=replica.model,
        slots=limits.pins_max,
        holds=frozenset(found.sha256 for found in replica.adapters if found.tier == "device"),
    )


def _refused(status: int, code: str, message: str) -> CatalogueAnswer:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return CatalogueAnswer(status=status, content={"error": error})
