"""The coordinator's side of the pages that every pager beside an engine serves."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from cluster.entities.adapters import AdapterCatalogue, AdapterPlacement
from cluster.policy.paging.contributions import Contribution
from cluster.replay.codec import encode
from deployments.adapter_messages import (
    CATALOGUE_PATH,
    DELTA_PATH,
    MERGED_PATH,
    PLACEMENT_PATH,
    STATUS_PATH,
    ContributionReport,
    contributions_to_json,
)


class NodeAwayError(Exception):
    """A node did not answer, or not as it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What the coordinator reads of a node's status page."""

    source: str
    """Name of its observations."""
    catalogue_version: int
    placement_version: int
    adapters: tuple[tuple[str, str, int, int], ...] = ()
    """Name, `sha256`, rank and bytes of those whose files it has seen."""


class PagerNode:
    """One node."""

    def __init__(self, url: str, session: Callable[[], aiohttp.ClientSession], *, timeout_s: float) -> None:
        self._url = url
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def status(self) -> NodeStatus:
        """Where it stands.

        Raises:
            NodeAwayError: it does not say.
        """
        found = await self._ask("GET", STATUS_PATH)
        try:
            return NodeStatus(
                source=str(found["source"]),
                catalogue_version=int(found["catalogue_version"]),
                placement_version=int(found["placement"]["version"]),
                adapters=tuple(
                    (str(a["name"]), str(a["sha256"]), int(a["rank"]), int(a["bytes"]))
                    for a in found["adapters"]
                    if a["sha256"]
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise NodeAwayError(f"its status cannot be read: {error!r}") from error

    async def give_catalogue(self, catalogue: AdapterCatalogue) -> int:
        """Give it the catalogue; the version that it has then.

        Raises:
            NodeAwayError: it did not take it.
        """
        return _version(await self._ask("PUT", CATALOGUE_PATH, encode(catalogue)))

    async def give_placement(self, placement: AdapterPlacement) -> None:
        """Say what it should have near.

        Raises:
            NodeAwayError: it did not take it.
        """
        await self._ask("PUT", PLACEMENT_PATH, encode(placement))

    async def seen_since(self, acknowledged: int) -> ContributionReport:
        """What it saw after a version of its own.

        Raises:
            NodeAwayError: it does not say.
        """
        found = await self._ask("GET", f"{DELTA_PATH}?ack={acknowledged}")
        try:
            return ContributionReport.from_json(found)
        except (KeyError, TypeError, ValueError) as error:
            raise NodeAwayError(f"what it saw cannot be read: {error!r}") from error

    async def tell(self, contributions: Iterable[Contribution]) -> None:
        """Tell it what others saw.

        Raises:
            NodeAwayError: it did not take it.
        """
        body = {"contributions": contributions_to_json(contributions)}
        await self._ask("PUT", MERGED_PATH, body)

    async def _ask(self, method: str, path: str, content: Any = None) -> Mapping[str, Any]:
        body = None if content is None else orjson.dumps(content)
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            async with self._session().request(
                method, self._url + path, data=body, headers=headers, timeout=self._timeout
            ) as response:
                raw = await response.read()
                if response.status != 200:
                    raise NodeAwayError(f"{method} {path}: status {response.status} {raw[:200]!r}")
                found = orjson.loads(raw)
        except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError) as error:
            raise NodeAwayError(f"{method} {path}: {type(error).__name__}: {error}") from error
        if not isinstance(found, dict):
            raise NodeAwayError(f"{method} {path}: not an object")
        return found


def _version(found: Mapping[str, Any]) -> int:
    try:
        return int(found["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise NodeAwayError(f"no version in its answer: {error!r}") from error
