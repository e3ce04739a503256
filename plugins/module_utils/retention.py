# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Peers that an etcd without its history does not name any more, kept for a while.

Pure but for time. An etcd that was emptied, or restored from a backup, fills up again as hosts
come back; until then its silence about a host says nothing about that host.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from .flannel import Lease


class Retention:
    """``leases`` by key name, until ``until``, in seconds since the epoch: a restart keeps both."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.leases: dict[str, Lease] = {}
        self.until = 0.0

    def resume(self, leases: Iterable[Lease], until: float) -> None:
        """Go on from what the last process knew."""
        self.leases = {lease.key_name: lease for lease in leases}
        self.until = until

    def keep(self, leases: Iterable[Lease]) -> bool:
        """Keep these as well; whether that is the beginning of it."""
        found = {lease.key_name: lease for lease in leases}
        begins = bool(found) and not self.leases
        if begins:
            self.until = time.time() + self._seconds
        self.leases.update(found)
        return begins

    def see(self, leases: Iterable[Lease]) -> list[str]:
        """Forget those that are named again, and those whose host has another lease now; names of
        the latter."""
        if not self.leases:
            return []
        named = list(leases)
        for lease in named:
            self.leases.pop(lease.key_name, None)
        hosts = {lease.host_id for lease in named if lease.host_id}
        addresses = {lease.public_ip for lease in named}
        superseded = [
            name
            for name, lease in self.leases.items()
            if lease.host_id in hosts or lease.public_ip in addresses
        ]
        for name in superseded:
            del self.leases[name]
        return superseded

    def expire(self) -> int:
        """Forget all once their time is over; how many those were."""
        if not self.leases or time.time() <= self.until:
            return 0
        count = len(self.leases)
        self.leases.clear()
        return count
