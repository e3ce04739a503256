# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent knows: one view, from which all that this host should hold follows.

A view is replaced as a whole, when a listing comes or when the host has changed. Between listings,
etcd's events change the leases in its table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..flannel.config import NetworkConfig
from ..flannel.lease import Lease, subnet_of_key
from ..kernel.entries import Route
from ..kernel.kernel import Kernel
from ..overlay import peers
from ..overlay.location import HostLocation, find
from ..overlay.needs import Needs
from ..overlay.peer_table import PeerTable
from ..overlay.rules import Rules
from ..overlay.underlay import Adjacency
from .settings import Settings


class Surroundings(NamedTuple):
    """What of this host decides which leases it may use: where it is, the routes that are not ours
    (``foreign``), and the addresses that it has to reach apart from the overlay (``needed``)."""

    location: HostLocation
    foreign: list[Route]
    needed: dict[str, str]


class View(NamedTuple):
    """The network's config and the revision of its last change, this host's own lease, this host,
    and all leases with what the kernel should hold for them. ``unreadable`` are names of keys that
    have a value which is no lease, each with the reason."""

    config: NetworkConfig
    config_revision: int
    own: Lease
    surroundings: Surroundings
    table: PeerTable
    unreadable: Mapping[str, str]

    @property
    def location(self) -> HostLocation:
        """Who this host is, and where it meets its peers."""
        return self.surroundings.location

    @property
    def unreadable_subnets(self) -> tuple[str, ...]:
        """The subnets of unreadable keys, apart from those that have a lease in the table: of
        these it is known what they were."""
        names = (name for name in self.unreadable if name not in self.table.leases)
        return tuple(filter(None, map(subnet_of_key, names)))


class Observer:
    """Looks at this host. ``needs`` remembers what the host has to reach."""

    def __init__(self, kernel: Kernel, settings: Settings) -> None:
        self._kernel = kernel
        self._choice = settings.choice
        self.needs = Needs(settings.etcd.endpoints, settings.controllers, kernel.overlaid)

    def locate(self, config: NetworkConfig) -> HostLocation:
        """Who this host is, and where it meets its peers, in a network of this config."""
        return find(self._kernel, config, self._choice)

    def look(self, location: HostLocation) -> Surroundings:
        """The rest of what there is to know of a host that is at ``location``."""
        foreign = self._kernel.routes(foreign=True)
        return Surroundings(location, foreign, self.needs.look(location.addresses, foreign))


def rules(
    config: NetworkConfig, config_revision: int, own: Lease, surroundings: Surroundings
) -> Rules:
    """Which leases a host may use."""
    location, foreign, needed = surroundings
    link = Adjacency(location.underlay, foreign)
    return Rules(
        config, own, location.addresses, link, config_revision=config_revision, needed=needed
    )


def make_view(
    config: NetworkConfig,
    config_revision: int,
    own: Lease,
    surroundings: Surroundings,
    leases: Iterable[Lease],
    unreadable: Mapping[str, str],
) -> View:
    """A view of these leases, all judged anew."""
    link = Adjacency(surroundings.location.underlay, surroundings.foreign)
    table = PeerTable(
        rules(config, config_revision, own, surroundings),
        lambda usable: peers.encode(config, usable, link),
    )
    table.replace(leases)
    return View(config, config_revision, own, surroundings, table, unreadable)
