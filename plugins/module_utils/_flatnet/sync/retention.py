# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Peers that are kept for a while, although an etcd without its history does not name them.

An etcd that was emptied, or restored from a backup, fills up again as hosts come back. Until then
it says nothing about a host that it does not name.

Pure but for time. Time is measured since the boot, so it makes no difference when somebody sets the
clock. How much is left of the while is saved and goes on after a boot. How long the machine was off
is not counted, since only the clock could tell.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from ..flannel.lease import Lease


class Left(NamedTuple):
    """How many ``seconds`` were left ``at`` so many seconds after the boot ``boot``."""

    seconds: float = 0.0
    boot: str = ""
    at: float = 0.0


class Retention:
    """``leases`` are the retained ones by key name, and ``left`` says for how long. Both are kept
    over a restart."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.leases: dict[str, Lease] = {}
        self._end = 0.0

    def resume(self, leases: Iterable[Lease], left: Left) -> None:
        """Go on from what the last process knew."""
        self.leases = {lease.key_name: lease for lease in leases}
        seconds = left.seconds
        if left.boot and left.boot == _boot():
            seconds -= _now() - left.at
        self._end = _now() + min(seconds, self._seconds)

    @property
    def left(self) -> Left:
        return Left(max(self._end - _now(), 0.0) if self.leases else 0.0, _boot(), _now())

    @property
    def tenths(self) -> int:
        """How many tenths of the while have begun and are not over."""
        return -int(-10 * self.left.seconds // (self._seconds or 1))

    def keep(self, leases: Iterable[Lease]) -> bool:
        """Keep these as well; True if none were kept until now."""
        found = {lease.key_name: lease for lease in leases}
        begins = bool(found) and not self.leases
        if begins:
            self._end = _now() + self._seconds
        self.leases.update(found)
        return begins

    def see(self, leases: Iterable[Lease]) -> list[str]:
        """Forget those that etcd names again, and those whose host has another lease now; the names
        of the latter."""
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
        """Forget all if their time is over; how many there were."""
        if not self.leases or _now() <= self._end:
            return 0
        count = len(self.leases)
        self.leases.clear()
        return count


def _now() -> float:
    """Seconds since the boot, also those that the machine slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot() -> str:
    """Which boot it is; empty if nobody knows."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
