# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host as its lease names it, and which of the leases is its own.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .lease import Lease


class Host(NamedTuple):
    """Who asks for a lease.

    ``host_id`` identifies the machine whatever its addresses, ``hostname`` is for people.
    ``vtep_mac`` None means the stable one made from ``host_id`` and the VNI. ``vector``: the newest
    format of vectors that its relay takes, if it has one.
    """

    host_id: str
    hostname: str
    public_ip: str
    vtep_mac: str | None = None
    vector: int = 0

    def __str__(self) -> str:
        return "%s (%s)" % (self.hostname, self.public_ip)


def current_lease(leases: Iterable[Lease], host: Host) -> Lease | None:
    """The lease that ``host`` uses now: its own, else one that a flanneld wrote for its address."""
    found = [
        lease
        for lease in leases
        if lease.host_id == host.host_id
        or (not lease.host_id and lease.public_ip == host.public_ip)
    ]
    return min(found, key=lambda lease: rank_of(lease, host), default=None)


def is_clone(lease: Lease, host: Host) -> bool:
    """Whether a lease with our identity seems to belong to another machine."""
    return lease.public_ip != host.public_ip and lease.hostname != host.hostname


def rank_of(lease: Lease, host: Host) -> tuple[bool, bool, int, bool, str]:
    """For sorting: our leases come before adoptable ones and before those of a clone. Of these the
    oldest comes first, because peers have known it longest, then the one with our address."""
    return (
        lease.host_id != host.host_id,
        is_clone(lease, host),
        lease.create_revision,
        lease.public_ip != host.public_ip,
        lease.key_name,
    )
