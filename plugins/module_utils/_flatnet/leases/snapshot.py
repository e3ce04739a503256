# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the registry has read: the config and all leases, as they were at one revision.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..fields import show
from ..flannel.config import NetworkConfig
from ..flannel.lease import Lease


class Garbage(NamedTuple):
    """A key below ``subnets`` that is not a valid lease. ``subnet`` is the one that its name
    says."""

    key: str
    reason: str
    subnet: str | None
    mod_revision: int = 0

    def __str__(self) -> str:
        return "key %s is not used: %s" % (show(self.key), self.reason)


class Snapshot(NamedTuple):
    """All leases at one revision; ``cluster`` is the id of the etcd cluster, 0 where unknown."""

    revision: int
    leases: tuple[Lease, ...]
    garbage: tuple[Garbage, ...]
    cluster: int = 0
    # The key names below ``subnets``, also of garbage, with their mod revisions.
    keys: Mapping[str, int] = MappingProxyType({})

    @property
    def taken(self) -> tuple[str, ...]:
        """The subnets of all keys, also of those with a garbage value."""
        return tuple(lease.subnet for lease in self.leases) + self.unreadable

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The subnets of keys whose value we cannot read. Somebody seems to hold them."""
        return tuple(each.subnet for each in self.garbage if each.subnet)

    def of_host(self, host_id: str) -> tuple[Lease, ...]:
        """The leases that record this identity: one, or none."""
        return tuple(each for each in self.leases if each.host_id == host_id)


class Listing(NamedTuple):
    """The config and all leases at one revision. ``config_revision`` is the revision of the
    config's last change."""

    config: NetworkConfig
    snapshot: Snapshot
    config_revision: int = 0


class Found(NamedTuple):
    """As Listing, if the config may be missing or broken: then it is None, and ``problem`` says
    why."""

    config: NetworkConfig | None
    snapshot: Snapshot
    config_revision: int = 0
    problem: str = ""


class Planned(NamedTuple):
    """What earlier steps of a run in check mode would have written."""

    config: NetworkConfig | None = None
    leases: tuple[Lease, ...] = ()

    def added_to(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot as it would be: a planned lease replaces its host's present one."""
        if not self.leases:
            return snapshot
        keys = {lease.key_name for lease in self.leases}
        hosts = {lease.host_id for lease in self.leases if lease.host_id}
        kept = [
            lease
            for lease in snapshot.leases
            if lease.key_name not in keys and lease.host_id not in hosts
        ]
        return snapshot._replace(leases=(*kept, *self.leases))
