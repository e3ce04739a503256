# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which config of the network this host goes by: the one it has, or another one in etcd.

``takeover.py`` says what a host must have to go over to another config. Until it has that, the
former config holds, and the status says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..backends.udp.keeper import RelayKeeper
from ..errors import FlatnetError
from ..flannel.config import NetworkConfig
from ..flannel.lease import Lease
from ..host.journal import NOTICE
from ..host.lock import locked
from ..leases.registry import NoNetwork
from ..leases.snapshot import Found
from ..overlay import applied, devices
from ..overlay.location import HostLocation
from .own_lease import OwnLease
from .report import Reporter
from .takeover import describe, left_outside, misfit
from .view import Observer, View, rules


class InUse(NamedTuple):
    """The config that this host goes by, and the revision of its last change. None before there is
    one."""

    config: NetworkConfig | None
    revision: int = 0


class Chosen(NamedTuple):
    """The config to go by, the revision of its last change, and where this host is then."""

    config: NetworkConfig
    revision: int
    location: HostLocation


class ConfigChange:
    """``waiting`` is what etcd has while this host cannot go over to it; else None."""

    def __init__(self, observer: Observer, own: OwnLease, report: Reporter) -> None:
        self._observer = observer
        self._own = own
        self._report = report
        self.waiting: Found | None = None

    def choose(self, found: Found, used: InUse) -> Chosen:
        """The config to go by after a listing. Raises NoNetwork if there is none."""
        former = used.config
        if former is None or former == found.config:
            if found.config is None:
                raise NoNetwork(found.problem)
            return self._take(found, found.config, former)
        location = self._observer.locate(former)
        leases = found.snapshot.leases
        mine = self._own.find(leases, location.host, found.config)
        if found.config is None:
            if mine is None:
                # Not even that: as it is after etcd was emptied.
                raise NoNetwork(found.problem)
            self._wait(found, former, found.problem)
            return Chosen(former, used.revision, location)
        obstacle = self._obstacle(found.config, former, used.revision, mine, leases)
        if obstacle:
            self._wait(found, former, obstacle)
            return Chosen(former, used.revision, location)
        return self._take(found, found.config, former)

    def look_again(self, view: View) -> Chosen | None:
        """The config that had to wait, if this host has by now what it takes; else None."""
        found, mine = self.waiting, self._own.stored
        if found is None or found.config is None or mine is None:
            return None
        obstacle = self._obstacle(
            found.config, view.config, view.config_revision, mine, view.table.leases.values()
        )
        if obstacle:
            self._wait(found, view.config, obstacle)
            return None
        return self._take(found, found.config, view.config)

    def _take(self, found: Found, config: NetworkConfig, former: NetworkConfig | None) -> Chosen:
        location = self._observer.locate(config)
        if former and config != former:
            if config.network != former.network:
                with locked():
                    # A note about a network tells that the playbook has gone over to it.
                    applied.note(former.network, 0)
            self._report.log(NOTICE, "this host goes over to the network %s" % describe(config))
        self.waiting = None
        self._report.healed("config")
        return Chosen(config, found.config_revision, location)

    def _wait(self, found: Found, former: NetworkConfig, reason: str) -> None:
        self.waiting = found
        self._report.failed(
            "config",
            "this host goes on under the former config of the network, %s, and not under that in "
            "etcd%s: %s; run the playbook on this host"
            % (
                describe(former),
                ", " + describe(found.config) if found.config else "",
                reason,
            ),
        )

    def _obstacle(
        self,
        config: NetworkConfig,
        former: NetworkConfig,
        revision: int,
        mine: Lease | None,
        leases: Iterable[Lease],
    ) -> str | None:
        """Why this host cannot go over from one config to another, where its lease is ``mine``;
        None if it can."""
        reason = misfit(config, mine)
        if reason or mine is None:
            return reason
        try:
            location = self._observer.locate(config)
            RelayKeeper().learn(config.backend, devices.here(config, mine, location.underlay))
        except FlatnetError as error:
            return str(error)
        if misfit(former, mine):
            return None  # the playbook has been here
        if RelayKeeper().left(former.backend, config.backend):
            # Leases of udp and of alloc look the same, so they do not tell.
            return "the former backend's relay is still on this host"
        if applied.newest(config.network):
            return None
        # Peers are not to be lost to a network that is only smaller.
        judge = rules(former, revision, mine, self._observer.look(location))
        return left_outside(former, config, judge.select(leases).usable)
