"""What nodes saw, brought together and told to all of them; in memory, with what is on the disk set apart."""

import logging
from collections import OrderedDict
from collections.abc import Collection

from cluster.policy.paging.contributions import Contribution, Contributions
from deployments.adapter_messages import ContributionReport
from operators.pager.store import Learned

logger = logging.getLogger("tidemill.adapters.coordinator")


class Gathering:
    """Contributions of all nodes."""

    def __init__(self, kept: Learned, *, contributions_max: int) -> None:
        self._contributions_max = contributions_max
        self._contributions = Contributions()
        self._contributions.merge(kept.contributions)
        self._sources: OrderedDict[str, None] = OrderedDict.fromkeys(c.source for c in kept.contributions)
        """The one that has told nothing for the longest time first."""
        self._acknowledged = dict(kept.acknowledged or {})
        self._heard = dict(self._acknowledged)
        """By source, what has come; acknowledged once it is on the disk."""
        self._told: dict[str, dict[tuple[str, str], int]] = {}
        """By replica, the versions of others' contributions that it has."""
        self.changed = False
        """Whether something came since it was last written."""

    def acknowledged(self, source: str) -> int:
        """Up to which of its versions a source need not tell again."""
        return self._acknowledged.get(source, 0)

    def take(self, report: ContributionReport) -> None:
        """Take what a node saw."""
        if self._contributions.merge(report.contributions):
            self.changed = True
        self._sources[report.source] = None
        self._sources.move_to_end(report.source)
        self._bound()
        known = self._heard.get(report.source, 0)
        if report.version > known:
            self._heard[report.source] = report.version
            self.changed = True

    def _bound(self) -> None:
        """Forget the longest silent nodes until what is left fits."""
        found = self._contributions.all()
        while len(found) > self._contributions_max and len(self._sources) > 1:
            gone, _ = self._sources.popitem(last=False)
            logger.warning("what %s saw is forgotten: adapters.fleet.contributions_max", gone)
            found = tuple(contribution for contribution in found if contribution.source != gone)
            self._contributions = Contributions()
            self._contributions.merge(found)
            self._heard.pop(gone, None)

    def news_for(self, replica: str, source: str) -> tuple[Contribution, ...]:
        """What a replica has not been told yet: of others, and of its own what it may have lost."""
        told = self._told.get(replica, {})
        return tuple(
            found
            for found in self._contributions.all()
            if told.get((found.source, found.adapter), -1) < found.version
            and (found.source != source or replica not in self._told)
        )

    def told(self, replica: str, news: Collection[Contribution]) -> None:
        """A replica has been told."""
        known = self._told.setdefault(replica, {})
        known.update({(found.source, found.adapter): found.version for found in news})

    def forget(self, replicas: Collection[str]) -> None:
        """Forget what was told to replicas that are gone."""
        for gone in self._told.keys() - set(replicas):
            del self._told[gone]

    def keep(self, adapters: Collection[str]) -> None:
        """Forget adapters that are not in the catalogue any more."""
        before = len(self._contributions.all())
        self._contributions.keep(adapters)
        self.changed = self.changed or len(self._contributions.all()) != before

    def to_keep(self) -> Learned:
        """What is to be written now."""
        self.changed = False
        return Learned(contributions=self._contributions.all(), acknowledged=dict(self._heard))

    def kept(self, learned: Learned) -> None:
        """It is on the disk."""
        self._acknowledged = dict(learned.acknowledged or {})
