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
- Without this host's own lease the data plane stays as it is.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Sequence
from typing import Callable

from . import files, overlay, peers, state
from ._relay.config import InvalidRelayConfig
from .assignment import Decision, Wish, decide, held
from .entries import MAIN_TABLE, Route
from .errors import FlatnetError
from .etcd import WatchResponse
from .flannel import InvalidLease, Lease, gateway, parse_lease, subnet_env, subnet_of_key
from .kernel import Kernel, KernelError
from .leases import Listing, Registry
from .lock import locked
from .needs import Needs
from .network import NetworkConfig
from .place import Place, find
from .plan import Changes, RouteTaken
from .program import ERROR, INFO, NOTICE, WARNING
from .relay_keeper import RelayKeeper
from .retention import Retention
from .settings import Settings
from .status import Status
from .table import PeerTable

Log = Callable[[int, str], None]  # syslog's level, text


class OwnLeaseLost(FlatnetError):
    """This host cannot hold the subnet that its data plane uses."""


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
        self._place: Place | None = None
        self._foreign: list[Route] = []
        self._needs = Needs(settings.etcd.endpoints, settings.controllers)
        self._needed: dict[str, str] = {}
        self._own: Lease | None = None
        self._former = ""  # the gateway of the subnet before, which the bridge may still have
        self._table: PeerTable | None = None
        self._relay = RelayKeeper()
        self._remembered: state.State | None = None
        # Key names whose value is no lease, and leases that this etcd does not name.
        self._unsure: dict[str, str] = {}
        self._retention = Retention(settings.retention)
        self._saved: object = None
        self.revision = 0
        self.status = Status()

    # --- what is known --------------------------------------------------------------------------

    def remember(self, known: state.State) -> None:
        """Have the last applied state at hand."""
        retained = list(map(known.lease, known.retained))
        self._own = known.own_lease
        self._remembered = known
        self._config_revision = known.config_revision
        self._needs.seen(known.needed)
        self._retention.resume(retained, known.retained_left)
        self.revision = known.revision

    def recall(self) -> bool:
        """Start from the last applied state, if there is one and no listing to start from.

        Raises PlaceChanged if the underlay is not where it was: tunnels would lead nowhere.
        """
        known = self._remembered
        if known is None or self._table is not None:
            return False
        place = find(self._kernel, known.config, self._settings.choice)
        if place.underlay.ip != known.address.partition("/")[0]:
            raise PlaceChanged(
                "the underlay's address was %s on %s and is %s on %s now: nothing is restored; the "
                "service will move the lease when etcd answers"
                % (
                    known.address,
                    known.interface,
                    place.underlay.address,
                    place.underlay.interface,
                )
            )
        leases = known.leases
        self._place = place
        self._learn(known.config, known.own_lease, leases)
        return True

    def _leases(self) -> dict[str, Lease]:
        """What was known until now."""
        if self._table is None and self._remembered:
            return {lease.key_name: lease for lease in self._remembered.leases}
        return dict(self._table.leases) if self._table else {}

    def take_listing(self, listing: Listing) -> None:
        """Start over from everything that etcd has, then bring the kernel after it."""
        config, snapshot = listing.config, listing.snapshot
        place = find(self._kernel, config, self._settings.choice)
        self._place = place
        self._config_revision = listing.config_revision
        self._needs.seen(self._registry.reached)
        self._needs.resolve_aside()
        own, leases = self._hold(listing, place)
        names = {lease.key_name for lease in leases}
        others = names - {own.key_name}
        another = snapshot.revision < self.revision
        known = self._leases() if snapshot.garbage or another or not others else {}
        self._unsure = {
            self._registry.lease_name(each.key) or "": each.reason for each in snapshot.garbage
        }
        kept = [known[name] for name in self._unsure if name in known and name not in names]
        if another or (known and not others):
            self._retain(lease for name, lease in known.items() if name not in names)
        self._retention.see(leases)
        expired = self._retention.expire()
        if expired:
            self._log(WARNING, "%d peers are not retained any longer" % expired)
        self.revision = snapshot.revision
        self._learn(config, own, [*leases, *kept, *self._retention.leases.values()])
        self.status.listings += 1
        self.check("listing")

    def _retain(self, leases: Iterable[Lease]) -> None:
        own = self._own
        missed = [each for each in leases if own is None or each.key_name != own.key_name]
        if self._retention.keep(missed):
            self._log(
                ERROR,
                "etcd has lost its history (revision %d was known) and names %d peers fewer; they "
                "are kept for %d seconds, or until their leases are back"
                % (self.revision, len(missed), self._settings.retention),
            )

    def take_events(self, responses: Iterable[WatchResponse]) -> bool:
        """Take in what changed; False if that asks for a listing."""
        table, own = self._table, self._own
        if table is None or own is None:
            return False
        changed: dict[str, Lease | None] = {}
        unknown = False  # what the kernel held for a lease that nobody understood
        for response in responses:
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
                        self._unsure[name] = str(error)
                        self._log(WARNING, "key %r is not used: %s" % (name, error))
                        continue
                if self._unsure.pop(name, None) and name not in table.leases:
                    unknown = True
                if name == own.key_name:
                    if lease is None or not lease.same_content(own):
                        return False
                    self._own = own = lease
                    self.status.healed("lease")
                changed[name] = lease
                self._retention.leases.pop(name, None)
            self.revision = max(self.revision, response.revision)
        for name in self._retention.see(lease for lease in changed.values() if lease):
            changed.setdefault(name, None)
        self._apply_events(table, changed)
        if unknown:
            self.check("events")
        return True

    def _apply_events(self, table: PeerTable, changed: dict[str, Lease | None]) -> None:
        changes = table.update(changed)
        self.status.known(table, self._unsure, self.revision)
        if self._relay.settings:
            with locked():
                found = self._relay.follow(table.usable, self._unsure_subnets(), self.revision)
            self._tell("events", found)
            self._inform_relay("events")
        if not changes:
            return
        try:
            with locked():
                self._kernel.apply(changes)
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

    def _learn(self, config: NetworkConfig, own: Lease, leases: Iterable[Lease]) -> None:
        place = self._place
        if place is None:
            return
        if self._own and self._own.subnet != own.subnet:
            # The playbook has moved this host.
            self._former = gateway(self._own.subnet)
            self._log(NOTICE, "this host's subnet was %s, %s now" % (self._own.subnet, own.subnet))
        self._config, self._own = config, own
        self._learn_relay()
        self._foreign = self._kernel.routes(foreign=True)
        link = peers.Adjacency(place.underlay, self._foreign)
        self._needed = self._needs.look(place.addresses, self._foreign)
        rules = peers.Rules(
            config,
            own,
            place.addresses,
            link,
            config_revision=self._config_revision,
            needed=self._needed,
        )
        self._table = PeerTable(rules, lambda usable: peers.encode(config, usable, link))
        self._table.replace(leases)
        self.status.place(config, own, place)
        self.status.known(self._table, self._unsure, self.revision)

    def _learn_relay(self) -> None:
        config, own, place = self._config, self._own, self._place
        if config is None or own is None or place is None:
            return
        try:
            self._relay.learn(config, own, place.underlay)
        except InvalidRelayConfig as error:
            self.failed("relay", "%s; the playbook installs the relay" % error)
        else:
            if self._relay.settings is None:  # another backend needs none
                self.status.healed("relay")

    # --- this host's own lease -------------------------------------------------------------------

    def _hold(self, listing: Listing, place: Place) -> tuple[Lease, list[Lease]]:
        """This host's lease, got back or brought up to date if need be, and all leases."""
        config, snapshot = listing.config, listing.snapshot
        settings = self._settings
        leases = list(snapshot.leases)
        host = place.host._replace(
            vtep_mac=settings.vtep_mac,
            vector=self._relay.vector(config, held(leases, place.host), self._own),
        )
        previous = self._own
        try:
            wish = self._wish(leases, place)
            decision = decide(config, leases, snapshot.taken, host, wish)
            before = decision.before
            if decision.moved and before:
                raise OwnLeaseLost(
                    "the lease of %s does not fit the network any more; a host's subnet is moved "
                    "by the playbook, not under its containers" % before.subnet
                )
            if before and self._as_decided(decision, before):
                self.status.healed("lease")
                return before, leases
            outcome = self._registry.acquire(host, wish, settings.ttl)
        except FlatnetError as error:
            if previous is None:
                raise
            self.failed("lease", "%s; the data plane stays as it is" % error)
            return previous, leases
        self.status.healed("lease")
        after = outcome.decision.after
        self._log(NOTICE, "this host holds the lease of %s" % after.subnet)
        gone = {lease.key_name for lease in decision.obsolete} | {after.key_name}
        return after, [each for each in leases if each.key_name not in gone] + [after]

    def _wish(self, leases: list[Lease], place: Place) -> Wish:
        """The subnet in use and no other, if there is one; containers have its addresses."""
        if self._own and held(leases, place.host) is None:
            return Wish(subnet=self._own.subnet)
        networks = (ipaddress.ip_interface(each.address).network for each in place.addresses)
        used = self._own.subnet if self._own else None
        return Wish(prefer=used, avoid=tuple(map(str, networks)))

    def _as_decided(self, decision: Decision, before: Lease) -> bool:
        # A further lease of this host's may be one that a run of the playbook is moving it to, and
        # what an interrupted one has left the next one takes away.
        renewable = bool(before.etcd_lease) == bool(self._settings.ttl)
        return renewable and before.same_content(decision.after)

    def keep_alive(self) -> bool:
        """Renew the lease if it has a TTL; False if it is gone."""
        return self._registry.keep_alive(self._own) if self._own else True

    # --- the kernel ------------------------------------------------------------------------------

    def check(self, why: str) -> Changes:
        """Compare everything with the kernel, and put right what differs.

        ``why`` is ``drift`` where nothing should differ: what is changed then is a repair.
        """
        place = self._place
        if self._config is None or self._own is None or self._table is None or place is None:
            return ()
        now = find(self._kernel, self._config, self._settings.choice)
        # What makes peers usable or not, apart from their leases.
        foreign = self._kernel.routes(foreign=True)
        needed = self._needs.look(now.addresses, foreign)
        if now != place or foreign != self._foreign or needed != self._needed:
            self._place = now
            self._learn(self._config, self._own, list(self._table.leases.values()))
        if now.underlay.ip != place.underlay.ip:
            raise PlaceChanged(
                "the address of %s changed from %s to %s"
                % (now.underlay.interface, place.underlay.ip, now.underlay.ip)
            )
        with locked():
            self._learn_relay()
            try:
                changes = self._converge(frozenset())
            except RouteTaken as taken:
                self.failed("routes", str(taken))
                changes = self._converge(taken.places)
            else:
                self.status.healed("routes")
            relay = self._relay.keep(self._table.usable, self._unsure_subnets(), self.revision)
        self.status.healed("kernel")
        self._tell(why, (*changes, *relay))
        self._inform_relay(why)
        return changes

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

    def _inform_relay(self, why: str) -> None:
        """Have the relay use what its files say; without the lock, since it may take its time."""
        if self._relay.settings is None:
            return
        late, problem = self._relay.inform(look=why != "events")
        self._tell("drift", (late,) if late else ())
        if problem:
            self.failed("relay", problem)
        else:
            self.status.healed("relay")

    def _converge(self, without: frozenset[object]) -> Changes:
        return self._kernel.converge(lambda: self._compute(without), check_mode=False)

    def _compute(self, without: frozenset[object]) -> Changes:
        """All that differs; ``without`` what stands where somebody else's route is."""
        if self._config is None or self._table is None:
            return ()
        changes: Changes = ()
        routes = self._kernel.routes(None)
        held = {}
        for device in self.devices():
            name = device.link.name
            held[name] = self._kernel.held(name, routes)
            changes += overlay.plan(device, self._kernel.link(name), held[name]).changes
        tunnel = self._config.backend.device
        wanted = [e for key, e in self._table.desired.items() if key not in without]
        standing = peers.standing(self._config)
        wanted += standing if self._relay.settings else ()
        # Of a relay that nothing is known of, the route stays as it is.
        left = () if self._relay.settings else {route.key for route in standing}
        unsure = self._unsure_subnets()
        routes = [r for r in routes if r.table == MAIN_TABLE and r.key not in left]
        return changes + peers.changes(wanted, tunnel, held.get(tunnel or "", ()), routes, unsure)

    def _unsure_subnets(self) -> list[str]:
        """Those whose key has a value that nobody understands."""
        leases = self._table.leases if self._table else {}
        found = (subnet_of_key(name) for name in self._unsure if name not in leases)
        return [subnet for subnet in found if subnet]

    def devices(self) -> list[overlay.Device]:
        """The overlay's devices on this host."""
        config, own, place = self._config, self._own, self._place
        if config is None or own is None or place is None:
            return []
        found = []
        if self._settings.bridge:
            new = self._settings.bridge not in self._kernel.interfaces()
            name = self._settings.bridge
            # Under containers of the former subnet its gateway stays.
            used = bool(self._former) and bool(self._kernel.ports(name))
            former = "" if used else self._former
            found.append(overlay.bridge(name, config, own, place.underlay, new, former))
        if config.backend.type == "vxlan":
            found.append(overlay.vtep(config, own, place.underlay))
        if self._relay.settings:
            found.append(overlay.tun(self._relay.settings))
        return found

    # --- what is left on disk --------------------------------------------------------------------

    def save(self) -> None:
        """Keep the applied state for the next boot, and write subnet.env; if they changed."""
        if self._config is None or self._own is None or self._table is None or self._place is None:
            return
        retained = tuple(name for name in self._retention.leases if name in self._table.leases)
        size = len(self._table.leases)
        # Now and then also for how long it is retained.
        kept = (retained, self._retention.tenths)
        mark = (self.revision, self._config, self._own, self._place, size, kept)
        if mark == self._saved:
            return
        underlay = self._place.underlay
        leases = {**self._table.leases, self._own.key_name: self._own}
        state.save(
            self._settings.state_file,
            state.State(
                self._config,
                {name: lease.to_json() for name, lease in leases.items()},
                self._own.key_name,
                self.revision,
                underlay.interface,
                underlay.address,
                retained,
                self._retention.left,
                {name: (each.create_revision, each.mod_revision) for name, each in leases.items()},
                self._config_revision,
                needed=tuple(sorted(self._needs.etcd)),
            ),
        )
        self.write_subnet_env()
        self._saved = mark

    def write_subnet_env(self) -> None:
        """For the container runtime: see flannel.subnet_env."""
        if self._config and self._own and self._place:
            mtu = self._config.backend.overlay_mtu(self._place.underlay.mtu)
            text = subnet_env(self._config, self._own, mtu, self._settings.ipmasq)
            files.replace_if_changed(self._settings.subnet_file, text.encode(), 0o644)

    def failed(self, what: str, text: str) -> None:
        """Report a failure, loudly once, and in the status until it is healed."""
        if self.status.failed(what, text):
            self._log(ERROR, text)

    @property
    def watched(self) -> tuple[frozenset[str], str]:
        """Our devices, and the underlay's interface, for the Monitor."""
        names = frozenset(device.link.name for device in self.devices())
        return names, self._place.underlay.interface if self._place else ""

    @property
    def desired(self):  # type: ignore[no-untyped-def]
        """What the kernel should hold for peers, by entry key."""
        return self._table.desired if self._table else {}


def jitter(seconds: float) -> float:
    """About so long, so that a fleet's hosts do not act as one."""
    return seconds * random.uniform(0.8, 1.2)
