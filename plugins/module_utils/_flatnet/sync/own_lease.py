# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This host's own lease: the agent writes it again if it is gone, brings it up to date, renews it.

The lease is always one of the config that the host goes by, and always of the subnet that it has.
Only the playbook moves a host to another subnet or another backend, since its containers have
addresses of the subnet.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from typing import NamedTuple

from ..backends.udp.keeper import RelayKeeper
from ..errors import FlatnetError
from ..flannel.assignment import Decision, Wish, decide
from ..flannel.config import NetworkConfig
from ..flannel.host import Host, current_lease
from ..flannel.lease import Lease
from ..host.journal import NOTICE
from ..leases.acquire import acquire
from ..leases.snapshot import Snapshot
from ..leases.watched import WatchedRegistry
from ..overlay.location import HostLocation
from ..overlay.presence import refuse_clone
from .report import Reporter
from .settings import Settings
from .takeover import misfit

# Another machine may write its address into our lease, and we write ours again. If both did so for
# ever, peers would be sent back and forth: so we do it so often, within so many seconds.
_TAKEN_BACK, _WITHIN = 3, 600.0


class OwnLeaseLost(FlatnetError):
    """This host cannot have a lease of the subnet that its data plane uses."""


class LeaseInUse(NamedTuple):
    """The lease to use, and all leases. ``problem`` says why etcd does not have this host's lease
    as it should be; empty if it has."""

    lease: Lease
    leases: tuple[Lease, ...]
    problem: str = ""


class OwnLease:
    """``lease`` is the one that the data plane uses, None before there is one. ``stored`` is this
    host's lease as etcd has it, which may be another one for a while."""

    def __init__(
        self,
        settings: Settings,
        registry: WatchedRegistry,
        relay: RelayKeeper,
        report: Reporter,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._relay = relay
        self._report = report
        self.lease: Lease | None = None
        self.stored: Lease | None = None
        # When it was taken back, by time.monotonic().
        self._taken_back: list[float] = []

    def find(
        self, leases: Sequence[Lease], host: Host, config: NetworkConfig | None
    ) -> Lease | None:
        """This host's lease as etcd has it. A move may have left several: then the one that fits
        ``config``."""
        fitting = [
            each
            for each in leases
            if config and each.host_id == host.host_id and not misfit(config, each)
        ]
        return current_lease(fitting or leases, host)

    def hold(
        self,
        config: NetworkConfig,
        snapshot: Snapshot,
        location: HostLocation,
        waiting: bool,
        wanted: NetworkConfig | None,
    ) -> LeaseInUse:
        """After a listing: see that etcd has this host's lease as it should be.

        ``waiting``: etcd has another config, ``wanted``, and the playbook has yet to bring this
        host over to it. Then no lease is written that is missing, and one that does not fit
        ``config`` any more is left to the playbook.
        """
        leases, previous = snapshot.leases, self.lease
        mine = current_lease(leases, location.host)
        self.stored = self.find(leases, location.host, wanted)
        if waiting and previous and (mine is None or misfit(config, mine)):
            problem = "" if mine else "etcd names no lease of this host, and has another config"
            return LeaseInUse(previous, leases, problem)
        if waiting and wanted and wanted.backend.relay and mine and not misfit(wanted, mine):
            # It fits both. The playbook may have written it by now, with what a relay takes.
            config = wanted
        host = location.host._replace(
            vtep_mac=self._settings.vtep_mac,
            vector=self._relay.vector(config.backend, mine, previous),
        )
        try:
            wish = self._wish(mine, location)
            decision = decide(config, leases, snapshot.taken, host, wish)
            before = decision.before
            if decision.moved and before:
                raise OwnLeaseLost(
                    "the lease of %s does not fit the network any more; a host's subnet is moved "
                    "by the playbook, not under its containers" % before.subnet
                )
            if before and self._as_decided(decision, before):
                return LeaseInUse(before, leases)
            self._contest(before, host)
            outcome = acquire(
                self._registry,
                host,
                wish,
                self._settings.ttl,
                approve=lambda decision, _config: refuse_clone(decision, host, location.addresses),
                under=config if previous else None,
            )
        except FlatnetError as error:
            if previous is None:
                raise
            return LeaseInUse(previous, leases, str(error))
        after = self.stored = outcome.decision.after
        self._report.log(NOTICE, "this host holds the lease of %s" % after.subnet)
        gone = {lease.key_name for lease in decision.obsolete} | {after.key_name}
        return LeaseInUse(after, (*(each for each in leases if each.key_name not in gone), after))

    def _contest(self, found: Lease | None, host: Host) -> None:
        """Raise OwnLeaseLost if another machine keeps writing its address there."""
        ours = self.lease is not None and self.lease.public_ip == host.public_ip
        if not ours or found is None or found.public_ip == host.public_ip:
            return
        now = time.monotonic()
        self._taken_back = [each for each in self._taken_back if now - each < _WITHIN]
        if len(self._taken_back) >= _TAKEN_BACK:
            raise OwnLeaseLost(
                "another machine writes its address %s into the lease of %s, again and again, and "
                "%s has taken it back %d times; if one machine is a clone of the other, give one "
                "of them a machine-id of its own"
                % (found.public_ip, found.subnet, host, _TAKEN_BACK)
            )
        self._taken_back.append(now)

    def _wish(self, mine: Lease | None, location: HostLocation) -> Wish:
        """Which subnet to ask for: the one in use and no other, if there is one."""
        if self.lease and mine is None:
            return Wish(subnet=self.lease.subnet)
        networks = (ipaddress.ip_interface(each.address).network for each in location.addresses)
        used = self.lease.subnet if self.lease else None
        return Wish(prefer=used, avoid=tuple(map(str, networks)))

    def _as_decided(self, decision: Decision, before: Lease) -> bool:
        # This host may have a second lease: a run of the playbook is moving the host to it, or was
        # interrupted while it did. The playbook removes the one that is too many.
        renewable = bool(before.etcd_lease) == bool(self._settings.ttl)
        return renewable and before.same_content(decision.after)

    def keep_alive(self) -> bool:
        """Renew the lease if it has a TTL; False if it is gone."""
        lease = self.stored or self.lease
        return self._registry.keep_alive(lease) if lease else True
