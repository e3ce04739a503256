# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the kernel as the agent's view asks for: the overlay's devices, and what reaches the peers.
With the udp backend, the relay reaches the peers and is kept too.

What one lease asks for fails alone. The kernel refuses some next hops for reasons of its own, and
whoever can write leases can write such a one: nobody else's peers must hang on it. A refused lease
is tried again after a while, or once it was changed. It is not tried before, since an attempt that
is taken back looks like drift, and that would begin the next attempt.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import NamedTuple

from ..backends.udp.keeper import RelayKeeper
from ..flannel.lease import Lease
from ..host.lock import locked
from ..kernel.entries import MAIN_TABLE, Address, Device, Link
from ..kernel.kernel import Kernel, RefusedChange
from ..kernel.plan import Change, Changes, RouteTaken
from ..overlay import applied, devices, peers
from ..overlay.peer_table import PeerTable
from ..relay.config import InvalidRelayConfig
from .report import Reporter
from .settings import Settings
from .view import View

_RETRY = 0.5  # of the time between two checks


class _Refused(NamedTuple):
    lease: Lease
    reason: str
    until: float


class _Outcome(NamedTuple):
    """``taken``: somebody else's routes are in the way. ``left``: what else could not be done."""

    changes: Changes
    taken: str
    left: str


class Upkeep:
    """One host's kernel and relay. ``former`` is the gateway of the subnet that the host had
    before, which its bridge may still have."""

    def __init__(
        self, kernel: Kernel, relay: RelayKeeper, settings: Settings, report: Reporter
    ) -> None:
        self._kernel = kernel
        self._relay = relay
        self._bridge = settings.bridge
        self._interval = settings.check_interval
        self._report = report
        self.former = ""
        self._refused: dict[str, _Refused] = {}
        self._taken: frozenset[Hashable] = frozenset()

    # --- what there is of peers -----------------------------------------------------------------

    def refused(self, table: PeerTable) -> dict[str, str]:
        """Leases that the kernel refuses to reach, by key name, with its reason."""
        return {
            name: each.reason
            for name, each in self._refused.items()
            if _same(table.leases.get(name), each.lease)
        }

    def reached(self, view: View) -> int:
        """How many peers packets get to."""
        if view.config.backend.relay and not self._relay.settings:
            return 0
        table = view.table
        missed = set(self.refused(table)) | {table.owner(key) or "" for key in self._taken}
        return table.peers - len(missed & table.names)

    def devices(self, view: View) -> list[Device]:
        """The overlay's devices on this host."""
        config, own, underlay = view.config, view.own, view.location.underlay
        found = []
        if self._bridge and config.backend.carries:
            new = self._bridge not in self._kernel.interfaces()
            # Under containers of the former subnet its gateway stays.
            used = bool(self.former) and bool(self._kernel.ports(self._bridge))
            former = "" if used else self.former
            found.append(devices.bridge(self._bridge, config, own, underlay, new, former))
        return [*found, *devices.of_backend(config, own, underlay, self._relay.settings)]

    # --- after an event -------------------------------------------------------------------------

    def follow(self, view: View, revision: int) -> None:
        """Bring the relay after the leases in the view's table, taking its own table to be as it
        was left."""
        if not self._relay.settings:
            return
        with locked():
            found = self._relay.follow(view.table.usable, view.unreadable_subnets, revision)
            applied.note(view.config.network, revision)
        self._report.changed("events", found)
        self.inform("events")

    def apply(self, view: View, changes: Changes, revision: int) -> None:
        """Make changes that follow from an event, without comparing anything else. Raises
        KernelError if one of them is refused; then none was made."""
        with locked():
            self._kernel.apply(changes)
            applied.note(view.config.network, revision)

    # --- everything -----------------------------------------------------------------------------

    def learn(self, view: View, leaving: bool) -> None:
        """See what the relay's settings should be. ``leaving``: the network has another config."""
        here = devices.here(view.config, view.own, view.location.underlay)
        try:
            self._relay.learn(view.config.backend, here, leaving)
        except InvalidRelayConfig as error:
            self._report.failed("relay", "%s; the playbook installs the relay" % error)
        else:
            if self._relay.settings is None:  # another backend needs none
                self._report.healed("relay")

    def check(self, view: View, revision: int, why: str, leaving: bool) -> Changes:
        """Compare everything, and put right what differs; the changes of the kernel. Raises
        KernelError if devices cannot be made; then nothing was changed. ``leaving``: see learn."""
        with locked():
            self.learn(view, leaving)
            done = self._converge(view)
            kept = self._relay.keep(view.table.usable, view.unreadable_subnets, revision)
            applied.note(view.config.network, revision)
        self._report.tell("routes", done.taken)
        self._report.tell("kernel", done.left)
        self._report.changed(why, (*done.changes, *kept))
        self.inform(why)
        return done.changes

    def inform(self, why: str) -> None:
        """Have the relay use what its files say; without the lock, since it may take its time."""
        found = self._relay.inform(look=why != "events")
        if found is None:
            return  # nothing is known of it that was not before
        self._report.changed("drift", (found.late,) if found.late else ())
        self._report.tell("relay", found.problem)

    def _converge(self, view: View) -> _Outcome:
        self._forget(view.table)
        waiting = frozenset(self._refused)
        taken, self._taken = "", frozenset()
        try:
            changes, refused = self._attempt(view, waiting, frozenset())
        except RouteTaken as error:
            taken, self._taken = str(error), error.keys
            # All of what such a peer has in the kernel, or nothing.
            owners = {view.table.owner(key) or "" for key in error.keys}
            changes, refused = self._attempt(view, waiting | owners, error.keys)
        until = time.monotonic() + self._interval * _RETRY
        left = []
        for name, reason in refused.items():
            lease = view.table.leases.get(name)
            if lease:
                self._refused[name] = _Refused(lease, str(reason), until)
            else:
                left.append(str(reason))
        return _Outcome(changes, taken, "; ".join(left[:3]))

    def _forget(self, table: PeerTable) -> None:
        """Those that are to be tried again."""
        now = time.monotonic()
        self._refused = {
            name: each
            for name, each in self._refused.items()
            if now < each.until and _same(table.leases.get(name), each.lease)
        }

    def _attempt(
        self, view: View, waiting: frozenset[str], taken: frozenset[Hashable]
    ) -> tuple[Changes, dict[str, RefusedChange]]:
        def part(change: Change) -> str | None:
            if change.kind in (Link, Address):
                return None
            entry = change.before if change.after is None else change.after
            return (entry and view.table.owner(entry.key)) or str(entry)

        return self._kernel.converge_apart(
            lambda failed: self._compute(view, waiting | failed, taken), part
        )

    def _compute(self, view: View, without: frozenset[str], taken: frozenset[Hashable]) -> Changes:
        """All that differs; ``without`` these leases, and what stands where somebody else's route
        is."""
        changes: Changes = ()
        routes = self._kernel.routes(None)
        held = {}
        for device in self.devices(view):
            name = device.link.name
            held[name] = self._kernel.entries_on(name, routes)
            changes += devices.plan(device, self._kernel.link(name), held[name]).changes
        tunnel = view.config.backend.device
        table = view.table
        wanted = [
            entry
            for key, entry in table.desired.items()
            if key not in taken and not (without and table.owner(key) in without)
        ]
        network_routes = peers.network_routes(view.config)
        known = self._relay.settings or not view.config.backend.relay
        wanted += network_routes if known else ()
        # Of a relay that nothing is known of, the route stays as it is.
        left = () if known else {route.key for route in network_routes}
        routes = [r for r in routes if r.table == MAIN_TABLE and r.key not in left]
        on_tunnel = held.get(tunnel or "", ())
        found = peers.changes(wanted, tunnel, on_tunnel, routes, view.unreadable_subnets)
        # What could not be taken away was told, and is not tried at once again.
        return changes + tuple(
            change
            for change in found
            if not (change.after is None and str(change.before) in without)
        )


def _same(now: Lease | None, then: Lease) -> bool:
    return now is not None and now.same_content(then)
