# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps one host's kernel equal to what etcd says of the network.

The agent knows the network from the last listing and the events since, holds all peers in a
PeerTable, and brings the kernel after it: a few entries at once for an event, everything compared
when a listing comes, when the kernel tells of a change that was not ours, and now and then.

It never tears down on missing information:

- A lease whose value somebody overwrote with something that is no lease keeps its peer.
- An etcd whose history is not the one known so far (it was emptied, or restored from a backup) does
  not remove peers that it does not name, for ``retention`` seconds.
- Another config of the network, or none, changes nothing before this host has what it takes to go
  over to it.
- Without this host's own lease the data plane stays as it is.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Callable

from ..errors import FlatnetError
from ..etcd.client import EtcdCompacted, WatchResponse
from ..flannel import subnet_env
from ..flannel.config import NetworkConfig
from ..flannel.lease import InvalidLease, Lease, gateway, parse_lease, subnet_of_key
from ..host import files
from ..host.journal import ERROR, INFO, NOTICE, WARNING
from ..host.lock import locked
from ..kernel.entries import Route
from ..kernel.kernel import Kernel, KernelError
from ..kernel.plan import Changes
from ..leases.registry import NoNetwork, Registry
from ..leases.snapshot import Found, Snapshot
from ..overlay import applied, peers
from ..overlay.backends.udp.keeper import RelayKeeper
from ..overlay.location import HostLocation, find
from ..overlay.needs import Needs
from ..overlay.table import PeerTable
from ..relay.config import InvalidRelayConfig
from . import state
from .history import Known, another, missing, undeleted
from .own_lease import OwnLease
from .retention import Retention
from .settings import Settings
from .status import Status
from .takeover import describe, left_outside, misfit
from .upkeep import Upkeep, View

Log = Callable[[int, str], None]  # syslog's level, text


class PlaceChanged(FlatnetError):
    """The underlay's address is another one now, and the lease still says the old one."""


class Agent:
    """One network on one host. Not thread-safe; all methods may raise FlatnetError."""

    def __init__(self, settings: Settings, kernel: Kernel, registry: Registry, log: Log) -> None:
        self._settings = settings
        self._kernel = kernel
        self._registry = registry
        self._log = log
        self._config: NetworkConfig | None = None
        self._config_revision = 0
        # Another config that etcd has, and that this host cannot go over to yet.
        self._waiting: Found | None = None
        self._location: HostLocation | None = None
        self._foreign: list[Route] = []
        self._needs = Needs(settings.etcd.endpoints, settings.controllers, kernel.overlaid)
        self._needed: dict[str, str] = {}
        self._table: PeerTable | None = None
        self._relay = RelayKeeper()
        self._own = OwnLease(settings, registry, self._relay, log)
        self._upkeep = Upkeep(kernel, self._relay, settings.bridge, settings.check_interval)
        self._remembered: state.State | None = None
        # Key names whose value is no lease, and leases that this etcd does not name.
        self._unreadable: dict[str, str] = {}
        self._retention = Retention(settings.retention)
        self._saved: object = None
        self._cluster = 0
        self.revision = 0
        self.status = Status()

    # --- what is known --------------------------------------------------------------------------

    def remember(self, known: state.State) -> None:
        """Have the last applied state at hand."""
        retained = list(map(known.lease, known.retained))
        self._own.lease = known.own_lease
        self._remembered = known
        self._config, self._config_revision = known.config, known.config_revision
        self._needs.seen(known.needed)
        self._needs.within = frozenset(known.within)
        self._retention.resume(retained, known.retained_left)
        self.revision, self._cluster = known.revision, known.cluster

    def recall(self) -> bool:
        """Start from the last applied state, if there is one and no listing to start from.

        Raises PlaceChanged if the underlay is not where it was: tunnels would lead nowhere.
        """
        known = self._remembered
        if known is None or self._table is not None:
            return False
        location = find(self._kernel, known.config, self._settings.choice)
        if location.underlay.ip != known.address.partition("/")[0]:
            raise PlaceChanged(
                "the underlay's address was %s on %s and is %s on %s now: nothing is restored; the "
                "service will move the lease when etcd answers"
                % (
                    known.address,
                    known.interface,
                    location.underlay.address,
                    location.underlay.interface,
                )
            )
        leases = known.leases
        self._location = location
        self._learn(known.config, known.own_lease, leases)
        return True

    def _leases(self) -> dict[str, Lease]:
        """What was known until now."""
        if self._table is None and self._remembered:
            return {lease.key_name: lease for lease in self._remembered.leases}
        return dict(self._table.leases) if self._table else {}

    def _known(self) -> Known:
        """The same as far as it tells one history of etcd from another; without parsing leases."""
        if self._table is None and self._remembered:
            there = self._remembered.revisions
            keys = {name: there.get(name, (0, 0))[1] for name in self._remembered.values}
        else:
            leases = self._table.leases if self._table else {}
            keys = {name: lease.mod_revision for name, lease in leases.items()}
        # Of this host's own lease it is known from elsewhere what should be.
        for name in (*self._retention.leases, self._own.lease.key_name if self._own.lease else ""):
            keys.pop(name, None)
        return Known(self.revision, self._cluster, keys)

    def take_listing(self, found: Found) -> None:
        """Start over from everything that etcd has, then bring the kernel after it."""
        snapshot = found.snapshot
        self._needs.seen(self._registry.reached)
        self._needs.resolve_aside()
        config, location = self._choose(found)
        self._location = location
        own, leases, problem = self._own.hold(
            config, snapshot, location, self._waiting is not None, found.config
        )
        if problem:
            self.failed("lease", "%s; the data plane stays as it is" % problem)
        else:
            self.status.healed("lease")
        self._unreadable = {
            self._registry.lease_name(each.key) or "": each.reason for each in snapshot.garbage
        }
        kept = self._still_reached(snapshot, {lease.key_name for lease in leases}, own)
        self._retention.see(leases)
        self._expire()
        self.revision, self._cluster = snapshot.revision, snapshot.cluster
        self._learn(config, own, [*leases, *kept, *self._retention.leases.values()])
        self.status.listings += 1
        self.check("listing")

    def _still_reached(self, snapshot: Snapshot, names: set[str], own: Lease) -> list[Lease]:
        """Known leases whose key is garbage now. Those that are missing although nothing shows that
        they were deleted, are retained."""
        known = self._known()
        gone: Collection[str] = missing(known, snapshot)
        reason = another(known, snapshot)
        if not reason and gone and not names - {own.key_name}:
            reason = "it names no peer at all"
        elif not reason and gone:
            gone, reason = self._undeleted(missing(known, snapshot))
        garbage = [name for name in self._unreadable if name in known.keys and name not in names]
        leases = self._leases() if garbage or reason else {}
        if reason:
            missed = [leases[name] for name in gone if name not in names and name in leases]
            if self._retention.keep(missed):
                self._log(
                    ERROR,
                    "etcd does not have the history that was known: %s. %d peers, which it does "
                    "not name, are kept for %d seconds, or until their leases are back"
                    % (reason, len(missed), self._settings.retention),
                )
        return [
            leases[name]._replace(mod_revision=snapshot.keys[name])
            for name in garbage
            if name in leases
        ]

    def _undeleted(self, gone: Mapping[str, int]) -> tuple[Collection[str], str]:
        """Those keys of which nobody can tell that they were deleted, and why."""
        try:
            found = undeleted(gone, self._registry.snapshot(self.revision))
        except EtcdCompacted:
            return gone, "revision %d, which was known, is compacted" % self.revision
        words = "at revision %d it had no such key %s as was known"
        return found, words % (self.revision, found[0]) if found else ""

    def _expire(self) -> list[str]:
        """Give up what was retained for long enough; the names."""
        names = list(self._retention.leases)
        if not self._retention.expire():
            return []
        self._log(WARNING, "%d peers are not retained any longer" % len(names))
        return names

    # --- the network's config -------------------------------------------------------------------

    def _choose(self, found: Found) -> tuple[NetworkConfig, HostLocation]:
        """The config to go by, and the location that it gives this host."""
        former = self._config
        if former is None or former == found.config:
            if found.config is None:
                raise NoNetwork(found.problem)
            location = find(self._kernel, found.config, self._settings.choice)
            self._take(found)
            return found.config, location
        location = find(self._kernel, former, self._settings.choice)
        leases = found.snapshot.leases
        mine = self._own.find(leases, location.host, found.config)
        if found.config is None and mine is None:
            # Not even that: as it is after etcd was emptied.
            raise NoNetwork(found.problem)
        reason = self._obstacle(found, mine, leases)
        if found.config is None or reason:
            self._wait(found, former, reason or found.problem)
            return former, location
        location = find(self._kernel, found.config, self._settings.choice)
        self._take(found)
        return found.config, location

    def _take(self, found: Found) -> None:
        if found.config and self._config and found.config != self._config:
            if found.config.network != self._config.network:
                with locked():
                    # What is noted of a network is to tell that the playbook went over to it.
                    applied.note(self._config.network, 0)
            self._log(NOTICE, "this host goes over to the network %s" % describe(found.config))
        self._config_revision = found.config_revision
        self._waiting = None
        self.status.healed("config")

    def _wait(self, found: Found, former: NetworkConfig, reason: str) -> None:
        self._waiting = found
        self.failed(
            "config",
            "this host goes on under the former config of the network, %s, and not under that in "
            "etcd%s: %s; run the playbook on this host"
            % (
                describe(former),
                ", " + describe(found.config) if found.config else "",
                reason,
            ),
        )

    def _obstacle(self, found: Found, mine: Lease | None, leases: Iterable[Lease]) -> str | None:
        """Why this host cannot go over to the config that etcd has, where its lease is ``mine``;
        None if it can."""
        config, former = found.config, self._config
        if config is None:
            return found.problem
        reason = misfit(config, mine)
        if reason or former is None or mine is None:
            return reason
        try:
            location = find(self._kernel, config, self._settings.choice)
            RelayKeeper().learn(config, mine, location.underlay)
        except FlatnetError as error:
            return str(error)
        if misfit(former, mine) or applied.newest(config.network):
            return None  # the playbook has been here
        # Not to lose peers by a network that is only smaller.
        rules = self._rules(former, mine, location, self._kernel.routes(foreign=True))
        return left_outside(former, config, rules.select(leases).usable)

    def _look_again(self) -> None:
        """Go over to a config that had to wait, if this host has by now what it takes."""
        found, own, table = self._waiting, self._own.stored, self._table
        if found is None or found.config is None or own is None or table is None:
            return
        reason = self._obstacle(found, own, table.leases.values())
        if reason:
            self._wait(found, self._config or found.config, reason)
            return
        self._location = find(self._kernel, found.config, self._settings.choice)
        self._take(found)
        self._learn(found.config, own, list(table.leases.values()))

    # --- etcd's events --------------------------------------------------------------------------

    def take_events(self, responses: Iterable[WatchResponse]) -> bool:
        """Take in what changed; False if that asks for a listing."""
        table, own = self._table, self._own.lease
        if table is None or own is None:
            return False
        changed: dict[str, Lease | None] = {}
        unknown = False  # what the kernel held for a lease that nobody understood
        for response in responses:
            if response.cluster and self._cluster and response.cluster != self._cluster:
                return False
            for event in response.events:
                name = self._registry.lease_name(event.kv.key)
                if self._registry.is_config(event.kv.key):
                    return False
                if name is None:
                    continue
                lease: Lease | None = None
                if event.kind == "put":
                    try:
                        lease = parse_lease(
                            name,
                            event.kv.value,
                            event.kv.mod_revision,
                            event.kv.lease,
                            event.kv.create_revision,
                        )
                    except InvalidLease as error:
                        if name == own.key_name:
                            return False
                        self._unreadable[name] = str(error)
                        table.rewritten(name, event.kv.mod_revision)
                        self._log(WARNING, "key %r is not used: %s" % (name, error))
                        continue
                if self._waiting and lease and lease.host_id and lease.host_id == own.host_id:
                    return False  # perhaps the playbook has moved it
                if self._unreadable.pop(name, None) and name not in table.leases:
                    unknown = True
                if name == own.key_name:
                    if lease is None or not lease.same_content(own):
                        return False
                    self._own.lease = self._own.stored = own = lease
                    self.status.healed("lease")
                changed[name] = lease
                self._retention.leases.pop(name, None)
            self.revision = max(self.revision, response.revision)
        for name in self._retention.see(lease for lease in changed.values() if lease):
            changed.setdefault(name, None)
        refused = self._upkeep.refused(table).keys() & changed.keys()
        self._apply_events(table, changed)
        if unknown or refused:
            self.check("events")
        return True

    def _apply_events(self, table: PeerTable, changed: dict[str, Lease | None]) -> None:
        changes = table.update(changed)
        if self._relay.settings:
            with locked():
                found = self._relay.follow(table.usable, self._unreadable_subnets(), self.revision)
                self._note()
            self._tell("events", found)
            self._inform_relay("events")
        if changes:
            try:
                with locked():
                    self._kernel.apply(changes)
                    self._note()
            except KernelError as error:
                self._log(INFO, "%s; comparing everything" % error)
                self.check("events")
                return
            self.status.applied(changes)
            gone = sum(lease is None for lease in changed.values())
            self._log(
                INFO,
                "revision %d: %d leases written, %d removed: %d changes, %d peers"
                % (self.revision, len(changed) - gone, gone, len(changes), table.peers),
            )
        self._tell_known()

    def _learn(self, config: NetworkConfig, own: Lease, leases: Iterable[Lease]) -> None:
        location = self._location
        if location is None:
            return
        before = self._own.lease
        if before and before.subnet != own.subnet:
            # The playbook has moved this host.
            self._upkeep.former = gateway(before.subnet)
            self._log(NOTICE, "this host's subnet was %s, %s now" % (before.subnet, own.subnet))
        self._config, self._own.lease = config, own
        self._learn_relay()
        self._foreign = self._kernel.routes(foreign=True)
        link = peers.Adjacency(location.underlay, self._foreign)
        self._needed = self._needs.look(location.addresses, self._foreign)
        rules = self._rules(config, own, location, self._foreign)
        self._table = PeerTable(rules, lambda usable: peers.encode(config, usable, link))
        self._table.replace(leases)
        self.status.located(config, own, location)
        self.status.known(self._table, self._unreadable, self.revision)

    def _rules(
        self, config: NetworkConfig, own: Lease, location: HostLocation, foreign: list[Route]
    ) -> peers.Rules:
        return peers.Rules(
            config,
            own,
            location.addresses,
            peers.Adjacency(location.underlay, foreign),
            config_revision=self._config_revision,
            needed=self._needs.look(location.addresses, foreign),
        )

    def _learn_relay(self) -> None:
        config, own, location = self._config, self._own.lease, self._location
        if config is None or own is None or location is None:
            return
        try:
            self._relay.learn(config, own, location.underlay)
        except InvalidRelayConfig as error:
            self.failed("relay", "%s; the playbook installs the relay" % error)
        else:
            if self._relay.settings is None:  # another backend needs none
                self.status.healed("relay")

    def keep_alive(self) -> bool:
        """Renew the lease if it has a TTL; False if it is gone."""
        return self._own.keep_alive()

    # --- the kernel ------------------------------------------------------------------------------

    def check(self, why: str) -> Changes:
        """Compare everything with the kernel, and put right what differs.

        ``why`` is ``drift`` where nothing should differ: what is changed then is a repair.
        """
        location = self._location
        if self._view is None or self._config is None or location is None:
            return ()
        self._look_again()
        now = find(self._kernel, self._config, self._settings.choice)
        # What makes peers usable or not, apart from their leases.
        foreign = self._kernel.routes(foreign=True)
        needed = self._needs.look(now.addresses, foreign)
        expired = self._expire()
        view = self._view
        if now != self._location or foreign != self._foreign or needed != self._needed or expired:
            self._location = now
            leases = view.table.leases
            self._learn(self._config, view.own, [leases[n] for n in leases if n not in expired])
        if now.underlay.ip != location.underlay.ip:
            raise PlaceChanged(
                "the address of %s changed from %s to %s"
                % (now.underlay.interface, location.underlay.ip, now.underlay.ip)
            )
        with locked():
            self._learn_relay()
            view = self._view or view
            done = self._upkeep.converge(view)
            relay = self._relay.keep(view.table.usable, view.unreadable, self.revision)
            self._note()
        for kind, text in (("routes", done.taken), ("kernel", done.left)):
            if text:
                self.failed(kind, text)
            else:
                self.status.healed(kind)
        self._tell(why, (*done.changes, *relay))
        self._inform_relay(why)
        self._tell_known()
        return done.changes

    def _tell(self, why: str, changes: Sequence[object]) -> None:
        if changes:
            self.status.applied(changes)
            if why == "drift":
                self.status.repaired(changes)
            self._log(
                WARNING if why == "drift" else INFO,
                "%s: %d changes: %s%s"
                % (
                    "repaired" if why == "drift" else why,
                    len(changes),
                    "; ".join(str(change) for change in changes[:3]),
                    "; ..." if len(changes) > 3 else "",
                ),
            )

    def _tell_known(self) -> None:
        """What there is now of peers, as far as it was applied."""
        table, config = self._table, self._config
        if table is None or config is None:
            return
        refused = self._upkeep.refused(table)
        if refused:
            first = min(refused)
            self.failed(
                "leases",
                "the kernel refuses what %d leases ask for, first that of %s: %s; the others are "
                "reached" % (len(refused), table.leases[first].subnet, refused[first]),
            )
        else:
            self.status.healed("leases")
        idle = config.backend.type == "udp" and not self._relay.settings
        reached = 0 if idle else self._upkeep.reached(table)
        self.status.known(table, self._unreadable, self.revision, reached, refused)
        self.status.retained = len(self._retention.leases)

    def _note(self) -> None:
        """For whoever read leases before this and applies them after it."""
        if self._config:
            applied.note(self._config.network, self.revision)

    def _inform_relay(self, why: str) -> None:
        """Have the relay use what its files say; without the lock, since it may take its time."""
        found = self._relay.inform(look=why != "events")
        if found is None:
            return  # nothing is known of it that was not before
        self._tell("drift", (found.late,) if found.late else ())
        if found.problem:
            self.failed("relay", found.problem)
        else:
            self.status.healed("relay")

    @property
    def _view(self) -> View | None:
        if not (self._config and self._own.lease and self._location and self._table):
            return None
        unreadable = tuple(self._unreadable_subnets())
        return View(self._config, self._own.lease, self._location, self._table, unreadable)

    def _unreadable_subnets(self) -> list[str]:
        """Those whose key has a value that nobody understands."""
        leases = self._table.leases if self._table else {}
        found = (subnet_of_key(name) for name in self._unreadable if name not in leases)
        return [subnet for subnet in found if subnet]

    # --- what is left on disk --------------------------------------------------------------------

    def save(self) -> None:
        """Keep the applied state for the next boot, and write subnet.env; if they changed."""
        own = self._own.lease
        if self._config is None or own is None or self._table is None or self._location is None:
            return
        retained = tuple(name for name in self._retention.leases if name in self._table.leases)
        size = len(self._table.leases)
        # Now and then also for how long it is retained.
        needed = (tuple(sorted(self._needs.etcd)), tuple(sorted(self._needs.within)))
        kept = (retained, self._retention.tenths, needed)
        mark = (self.revision, self._config, own, self._location, size, kept)
        if mark == self._saved:
            return
        underlay = self._location.underlay
        leases = {**self._table.leases, own.key_name: own}
        state.save(
            self._settings.state_file,
            state.State(
                self._config,
                {name: lease.to_json() for name, lease in leases.items()},
                own.key_name,
                self.revision,
                underlay.interface,
                underlay.address,
                retained,
                self._retention.left,
                {name: (each.create_revision, each.mod_revision) for name, each in leases.items()},
                self._config_revision,
                self._cluster,
                *needed,
            ),
        )
        self.write_subnet_env()
        self._saved = mark

    def write_subnet_env(self) -> None:
        """For the container runtime: see flannel/subnet_env.py."""
        if self._config and self._own.lease and self._location:
            mtu = self._config.backend.overlay_mtu(self._location.underlay.mtu)
            text = subnet_env.render(self._config, self._own.lease, mtu, self._settings.ipmasq)
            files.replace_if_changed(self._settings.subnet_file, text.encode(), 0o644)

    def failed(self, what: str, text: str) -> None:
        """Report a failure, loudly once, and in the status until it is healed."""
        if self.status.failed(what, text):
            self._log(ERROR, text)

    @property
    def watched(self) -> tuple[frozenset[str], str]:
        """Our devices, and the underlay's interface, for the Monitor."""
        view = self._view
        devices = self._upkeep.devices(view) if view else ()
        names = frozenset(device.link.name for device in devices)
        return names, self._location.underlay.interface if self._location else ""

    @property
    def desired(self):  # type: ignore[no-untyped-def]
        """What the kernel should hold for peers, by entry key."""
        return self._table.desired if self._table else {}


def jitter(seconds: float) -> float:
    """About so long, so that a fleet's hosts do not act as one."""
    return seconds * random.uniform(0.8, 1.2)
