# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps one host as etcd says of the network.

The agent knows the network from the last listing and the events since. A listing, or a change of
the host, makes a new view (``view.py``), and the kernel is compared with all of it. An event
changes a few leases in the view, and a few entries in the kernel. Everything is also compared when
the kernel tells of a change that was not ours, and now and then.

The parts: ``own_lease.py`` holds this host's lease, ``config_change.py`` chooses the config,
``events.py`` reads events, ``unlisted.py`` judges what a listing lacks, ``upkeep.py`` keeps the
kernel, ``saving.py`` writes the state.

The agent never tears down on missing information:

- A lease whose value somebody overwrote with something that is no lease keeps its peer.
- An etcd whose history is not the one known so far (it was emptied, or restored from a backup) does
  not remove peers that it does not name, for ``retention`` seconds.
- Another config of the network, or none, changes nothing before this host has what it takes to go
  over to it.
- Without this host's own lease the data plane stays as it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from ..backends.udp.keeper import RelayKeeper
from ..errors import FlatnetError
from ..etcd.client import WatchResponse
from ..flannel.lease import Lease, gateway
from ..host.journal import INFO, NOTICE, WARNING
from ..kernel.entries import Entry
from ..kernel.kernel import Kernel, KernelError
from ..kernel.plan import Changes
from ..leases.snapshot import Found
from ..leases.watched import WatchedRegistry
from . import events
from .config_change import Chosen, ConfigChange, InUse
from .history import Known
from .own_lease import OwnLease
from .report import Log, Reporter
from .saving import Saver
from .settings import Settings
from .state import State
from .status import Status
from .unlisted import Unlisted
from .upkeep import Upkeep
from .view import Observer, Surroundings, View, make_view


class UnderlayChanged(FlatnetError):
    """The underlay's address is another one now, and the lease still says the old one."""


class Agent:
    """One network on one host. Not thread-safe; all methods may raise FlatnetError.

    ``revision`` is etcd's, up to which everything is known.
    """

    def __init__(
        self, settings: Settings, kernel: Kernel, registry: WatchedRegistry, log: Log
    ) -> None:
        self.revision = 0
        self._cluster = 0
        self._view: View | None = None
        # The state of before, until there is a view.
        self._remembered: State | None = None
        self.status = Status()
        self.report = Reporter(self.status, log)
        self._registry = registry
        relay = RelayKeeper()
        self._observer = Observer(kernel, settings)
        self._own = OwnLease(settings, registry, relay, self.report)
        self._change = ConfigChange(self._observer, self._own, self.report)
        self._unlisted = Unlisted(registry, settings, self.report)
        self._upkeep = Upkeep(kernel, relay, settings, self.report)
        self._saver = Saver(settings)

    # --- the state of before --------------------------------------------------------------------

    def remember(self, known: State) -> None:
        """Have the last applied state at hand."""
        retained = list(map(known.lease, known.retained))
        self._own.lease = known.own_lease
        self._remembered = known
        self._observer.needs.seen(known.needed)
        self._observer.needs.within = frozenset(known.within)
        self._unlisted.retention.resume(retained, known.retained_left)
        self.revision, self._cluster = known.revision, known.cluster

    def recall(self) -> bool:
        """Start from the last applied state, if there is one and no listing to start from.

        Raises UnderlayChanged if the underlay is not where it was: tunnels would lead nowhere.
        """
        known = self._remembered
        if known is None or self._view is not None:
            return False
        location = self._observer.locate(known.config)
        if location.underlay.ip != known.address.partition("/")[0]:
            raise UnderlayChanged(
                "the underlay's address was %s on %s and is %s on %s now: nothing is restored; the "
                "service will move the lease when etcd answers"
                % (
                    known.address,
                    known.interface,
                    location.underlay.address,
                    location.underlay.interface,
                )
            )
        chosen = Chosen(known.config, known.config_revision, location)
        self._learn(chosen, known.own_lease, known.leases, {})
        return True

    @property
    def _waiting(self) -> bool:
        """Whether etcd has another config, which this host cannot go over to yet."""
        return self._change.waiting is not None

    def _in_use(self) -> InUse:
        before = self._view or self._remembered
        return InUse(before.config, before.config_revision) if before else InUse(None)

    def _known_leases(self) -> Mapping[str, Lease]:
        if self._view is not None:
            return self._view.table.leases
        return {each.key_name: each for each in self._remembered.leases} if self._remembered else {}

    def _known(self) -> Known:
        """What tells one history of etcd from another. Found without parsing leases."""
        if self._view is None and self._remembered:
            there = self._remembered.revisions
            keys = {name: there.get(name, (0, 0))[1] for name in self._remembered.values}
        else:
            keys = {name: each.mod_revision for name, each in self._known_leases().items()}
        # Of this host's own lease it is known from elsewhere what should be.
        own = self._own.lease
        for name in (*self._unlisted.retention.leases, own.key_name if own else ""):
            keys.pop(name, None)
        return Known(self.revision, self._cluster, keys)

    # --- a listing ------------------------------------------------------------------------------

    def take_listing(self, found: Found) -> None:
        """Start over from everything that etcd has, then bring the kernel after it."""
        snapshot = found.snapshot
        self._observer.needs.seen(self._registry.reached)
        self._observer.needs.resolve_aside()
        chosen = self._change.choose(found, self._in_use())
        own, leases, problem = self._own.hold(
            chosen.config, snapshot, chosen.location, self._waiting, found.config
        )
        self.report.tell("lease", problem and "%s; the data plane stays as it is" % problem)
        unreadable = {
            self._registry.lease_name(each.key) or "": each.reason for each in snapshot.garbage
        }
        kept = self._unlisted.keep(
            self._known(),
            self._known_leases,
            snapshot,
            {lease.key_name for lease in leases},
            own.key_name,
            unreadable,
        )
        self._unlisted.retention.see(leases)
        self._unlisted.expire()
        self.revision, self._cluster = snapshot.revision, snapshot.cluster
        retained = self._unlisted.retention.leases.values()
        self._learn(chosen, own, [*leases, *kept, *retained], unreadable)
        self.status.listings += 1
        self.check("listing")

    def _learn(
        self,
        chosen: Chosen,
        own: Lease,
        leases: Iterable[Lease],
        unreadable: Mapping[str, str],
        surroundings: Surroundings | None = None,
    ) -> View:
        """Make the view anew."""
        before = self._own.lease
        if before and before.subnet != own.subnet:
            # The playbook has moved this host.
            self._upkeep.former = gateway(before.subnet)
            self.report.log(
                NOTICE, "this host's subnet was %s, %s now" % (before.subnet, own.subnet)
            )
        config, revision, location = chosen
        surroundings = surroundings or self._observer.look(location)
        view = make_view(config, revision, own, surroundings, leases, unreadable)
        self._view, self._own.lease = view, own
        self._upkeep.learn(view, self._waiting)
        self.status.located(config, own, location)
        self.status.known(view.table, unreadable, self.revision)
        return view

    # --- events ---------------------------------------------------------------------------------

    def take_events(self, responses: Iterable[WatchResponse]) -> bool:
        """Take in what changed; False if that asks for a listing, then nothing was taken in."""
        view = self._view
        if view is None:
            return False
        batch = events.read(
            responses, self._registry, view, self._cluster, self._waiting, self.revision
        )
        if batch is None:
            return False
        for name, revision in batch.garbage.items():
            view.table.rewritten(name, revision)
            reason = batch.unreadable[name]
            self.report.log(WARNING, "key %r is not used: %s" % (name, reason))
        if batch.own is not view.own:
            self._own.lease = self._own.stored = batch.own
            self.report.healed("lease")
        self._view = view = view._replace(own=batch.own, unreadable=batch.unreadable)
        self.revision = batch.revision
        changed = batch.changed
        retention = self._unlisted.retention
        for name in changed:
            retention.leases.pop(name, None)
        for name in retention.see(lease for lease in changed.values() if lease):
            changed.setdefault(name, None)
        refused = self._upkeep.refused(view.table).keys() & changed.keys()
        self._follow(view, changed)
        if batch.cleared or refused:
            self.check("events")
        return True

    def _follow(self, view: View, changed: Mapping[str, Lease | None]) -> None:
        """Bring the kernel, and the relay, after changed leases."""
        changes = view.table.update(changed)
        self._upkeep.follow(view, self.revision)
        if changes:
            try:
                self._upkeep.apply(view, changes, self.revision)
            except KernelError as error:
                self.report.log(INFO, "%s; comparing everything" % error)
                self.check("events")
                return
            self.status.applied(changes)
            gone = sum(lease is None for lease in changed.values())
            self.report.log(
                INFO,
                "revision %d: %d leases written, %d removed: %d changes, %d peers"
                % (self.revision, len(changed) - gone, gone, len(changes), view.table.peers),
            )
        self._tell_known(view)

    # --- this host ------------------------------------------------------------------------------

    def keep_alive(self) -> bool:
        """Renew this host's lease if it has a TTL; False if it is gone."""
        return self._own.keep_alive()

    def check(self, why: str) -> Changes:
        """Compare everything with the kernel, and put right what differs.

        ``why`` is ``drift`` where nothing should differ: what is changed then is a repair.
        """
        view = self._view
        if view is None:
            return ()
        before = view.location.underlay
        view = self._changed_config(view)
        now = self._observer.look(self._observer.locate(view.config))
        expired = self._unlisted.expire()
        if now != view.surroundings or expired:
            leases = [each for name, each in view.table.leases.items() if name not in expired]
            chosen = Chosen(view.config, view.config_revision, now.location)
            view = self._learn(chosen, view.own, leases, view.unreadable, now)
        underlay = now.location.underlay
        if underlay.ip != before.ip:
            raise UnderlayChanged(
                "the address of %s changed from %s to %s"
                % (underlay.interface, before.ip, underlay.ip)
            )
        changes = self._upkeep.check(view, self.revision, why, self._waiting)
        self._tell_known(view)
        return changes

    def _changed_config(self, view: View) -> View:
        """The view under a config that had to wait, if the host can go over to it by now."""
        chosen, own = self._change.look_again(view), self._own.stored
        if chosen is None or own is None:
            return view
        return self._learn(chosen, own, list(view.table.leases.values()), view.unreadable)

    def _tell_known(self, view: View) -> None:
        """What there is now of peers, as far as it was applied."""
        table = view.table
        refused = self._upkeep.refused(table)
        problem = ""
        if refused:
            first = min(refused)
            problem = (
                "the kernel refuses what %d leases ask for, first that of %s: %s; the others are "
                "reached" % (len(refused), table.leases[first].subnet, refused[first])
            )
        self.report.tell("leases", problem)
        reached = self._upkeep.reached(view)
        self.status.known(table, view.unreadable, self.revision, reached, refused)
        self.status.retained = len(self._unlisted.retention.leases)

    # --- what others ask ------------------------------------------------------------------------

    def save(self) -> None:
        """Keep the applied state for the next boot, and write subnet.env; if they changed."""
        if self._view:
            self._saver.save(
                self._view,
                self.revision,
                self._cluster,
                self._unlisted.retention,
                self._observer.needs,
            )

    def write_subnet_env(self) -> None:
        """For the container runtime."""
        if self._view:
            self._saver.write_subnet_env(self._view)

    @property
    def watched(self) -> tuple[frozenset[str], str]:
        """Our devices, and the underlay's interface, for the Monitor."""
        view = self._view
        if view is None:
            return frozenset(), ""
        devices = self._upkeep.devices(view)
        names = frozenset(device.link.name for device in devices)
        return names, view.location.underlay.interface

    @property
    def desired(self) -> Mapping[Hashable, Entry]:
        """What the kernel should hold for peers, by entry key."""
        return self._view.table.desired if self._view else {}
