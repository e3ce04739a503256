# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a host hold exactly one lease, whatever others do at the same time.

An attempt reads the config and all leases, has flannel/assignment.py decide, and writes the lease
if nothing of this has changed meanwhile. If something has, the next attempt reads and decides anew.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

from ..etcd.client import Compare, EtcdError, EtcdLeaseNotFound
from ..flannel.assignment import Decision, Wish, decide
from ..flannel.config import NetworkConfig
from ..flannel.host import Host
from ..flannel.lease import Lease
from .registry import Registry
from .snapshot import Planned
from .transactions import read_basis, remove, repeat, write

# Gets a decision before it is carried out, and raises a FlatnetError if something on this host is
# in the way.
Approve = Callable[[Decision, NetworkConfig], None]


class Outcome(NamedTuple):
    """What acquire did: the decision that was carried out, the config that it was based on, and how
    many transactions it took."""

    decision: Decision
    config: NetworkConfig
    changed: bool
    transactions: int


def acquire(
    registry: Registry,
    host: Host,
    wish: Wish,
    ttl: int = 0,
    approve: Approve | None = None,
    under: NetworkConfig | None = None,
) -> Outcome:
    """Make ``host`` hold exactly one lease.

    ``ttl``, in seconds, binds the key to an etcd lease, which this renews if it is there. 0 makes
    the key permanent. ``approve`` is called before a decision is carried out, and raises if it must
    not be. ``under`` is the config that the host follows, if that is not the one in etcd. Raises
    what assignment.decide raises, LeaseContended, or an EtcdError.
    """
    acquisition = _Acquisition(registry, host, wish, ttl, approve, under)
    return repeat("a lease for %s" % (host,), acquisition.attempt)


def preview(
    registry: Registry,
    host: Host,
    wish: Wish,
    ttl: int,
    planned: Planned,
    approve: Approve | None = None,
) -> Outcome:
    """What acquire would do if ``planned`` were in etcd. Writes nothing."""
    config = planned.config or registry.config()
    snapshot = planned.added_to(registry.snapshot())
    decision = decide(config, snapshot.leases, snapshot.taken, host, wish)
    if approve:
        approve(decision, config)
    changed = bool(decision.surplus) or _in_place(registry, decision, ttl) is None
    return Outcome(decision, config, changed, 0)


class _Acquisition:
    """One call of acquire: its attempts, and what they have changed together."""

    def __init__(
        self,
        registry: Registry,
        host: Host,
        wish: Wish,
        ttl: int,
        approve: Approve | None,
        under: NetworkConfig | None,
    ) -> None:
        self._registry = registry
        self._host = host
        self._wish = wish
        self._ttl = ttl
        self._approve = approve
        self._under = under
        self._transactions = 0
        self._changed = False
        # What the host held before the first change.
        self._former: Lease | None = None

    def attempt(self) -> Outcome | None:
        """Read, decide and write; None if another attempt is needed."""
        entry, conditions = read_basis(self._registry, self._host)
        config = self._under or self._registry.parse_entry(entry)
        snapshot = self._registry.snapshot()
        decision = decide(config, snapshot.leases, snapshot.taken, self._host, self._wish)
        if self._approve:
            self._approve(decision, config)
        try:
            after = self._carry_out(decision, conditions)
        except EtcdLeaseNotFound:
            return None  # the etcd lease ran out just now
        except EtcdError as error:
            if not error.maybe_applied:
                raise
            # The next attempt sees whether the change was made. If it was, we made it.
            self._note_change(decision)
            return None
        if after is None:
            return None
        before = self._former if self._changed else decision.before
        done = decision._replace(before=before, after=after)
        return Outcome(done, config, self._changed, self._transactions)

    def _carry_out(self, decision: Decision, conditions: list[Compare]) -> Lease | None:
        """Write the lease unless it is there, then remove those that it replaces. Returns the lease
        as it is in etcd; None if another writer was faster."""
        lease = _in_place(self._registry, decision, self._ttl)
        if lease is None:
            self._transactions += 1
            lease = write(self._registry, decision, conditions, self._ttl)
            if lease is None:
                return None
            self._note_change(decision)
        elif self._ttl:
            self._registry.client.lease_keepalive(lease.etcd_lease)
        for obsolete in decision.obsolete:
            if not remove(self._registry, obsolete, lease):
                return None
            self._note_change(decision)
        return lease

    def _note_change(self, decision: Decision) -> None:
        """Note that this call has changed etcd, or may have, and what the host held before."""
        if not self._changed:
            self._changed, self._former = True, decision.before


def _in_place(registry: Registry, decision: Decision, ttl: int) -> Lease | None:
    """The host's lease if it is in etcd as decided, permanent or with this TTL; else None."""
    before = decision.before
    if before is None or not before.same_content(decision.after):
        return None
    granted = 0
    if ttl and before.etcd_lease:
        try:
            granted = registry.client.lease_time_to_live(before.etcd_lease).granted_ttl
        except EtcdLeaseNotFound:
            return None
    elif before.etcd_lease:
        return None
    return before if granted == ttl else None
