# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of peers that were known and that a listing does not have.

A lease that etcd does not name was mostly deleted, and its peer is removed. But where nothing shows
that it was deleted, because etcd has lost its history, the peer is retained for a while: see
``history.py`` and ``retention.py``. A lease whose key has a value that nobody can read stays in use
for as long as the key is like that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Callable

from ..etcd.client import EtcdCompacted
from ..flannel.lease import Lease
from ..host.journal import ERROR, WARNING
from ..leases.registry import Registry
from ..leases.snapshot import Snapshot
from .history import Known, another, missing, undeleted
from .report import Reporter
from .retention import Retention
from .settings import Settings


class Unlisted:
    """``retention`` has those that are retained now."""

    def __init__(self, registry: Registry, settings: Settings, report: Reporter) -> None:
        self._registry = registry
        self._seconds = settings.retention
        self._report = report
        self.retention = Retention(settings.retention)

    def keep(
        self,
        known: Known,
        leases: Callable[[], Mapping[str, Lease]],
        snapshot: Snapshot,
        names: Collection[str],
        own: str,
        unreadable: Collection[str],
    ) -> list[Lease]:
        """Begin to retain what is missing without having been deleted; returns the known leases
        whose key is unreadable now.

        ``known`` and ``leases`` are of before, ``names`` are those of the leases that there are
        now, and ``own`` is this host's.
        """
        gone: Collection[str] = missing(known, snapshot)
        reason = another(known, snapshot) or ""
        if not reason and gone and not set(names) - {own}:
            reason = "it names no peer at all"
        elif not reason and gone:
            gone, reason = self._undeleted(known, missing(known, snapshot))
        overwritten = [name for name in unreadable if name in known.keys and name not in names]
        if not overwritten and not reason:
            return []
        before = leases()
        if reason:
            missed = [before[name] for name in gone if name not in names and name in before]
            if self.retention.keep(missed):
                self._report.log(
                    ERROR,
                    "etcd does not have the history that was known: %s. %d peers, which it does "
                    "not name, are kept for %d seconds, or until their leases are back"
                    % (reason, len(missed), self._seconds),
                )
        return [
            before[name]._replace(mod_revision=snapshot.keys[name])
            for name in overwritten
            if name in before
        ]

    def _undeleted(self, known: Known, gone: Mapping[str, int]) -> tuple[Collection[str], str]:
        """The keys of which nobody can tell that they were deleted, and why not."""
        try:
            found = undeleted(gone, self._registry.snapshot(known.revision))
        except EtcdCompacted:
            return gone, "revision %d, which was known, is compacted" % known.revision
        words = "at revision %d it had no such key %s as was known"
        return found, words % (known.revision, found[0]) if found else ""

    def expire(self) -> list[str]:
        """Give up what was retained for long enough; the names."""
        names = list(self.retention.leases)
        if not self.retention.expire():
            return []
        self._report.log(WARNING, "%d peers are not retained any longer" % len(names))
        return names
