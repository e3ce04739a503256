# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The transactions that write a lease and remove one.

Each is carried out only if nothing that it was based on has changed. A transaction writes only one
lease, because flanneld v0.20 reads only the first event of a watch response.
"""

from __future__ import annotations

import random
import time
from typing import Callable, TypeVar

from ..errors import FlatnetError
from ..etcd.client import Compare, KeyValue, Op
from ..flannel.assignment import Decision
from ..flannel.host import Host
from ..flannel.lease import Lease
from .guards import Guards, unchanged
from .registry import Registry

# Seconds to wait after a lost race. The first wait is doubled up to the longest one. Each is a
# random part of that.
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 1.0
_GIVE_UP = 60.0

T = TypeVar("T")


class LeaseContended(FlatnetError):
    """Other writers were faster for a whole minute."""


def repeat(what: str, attempt: Callable[[], T | None]) -> T:
    """Call ``attempt`` until it returns a result. None means that another writer was faster.

    The pauses between attempts grow, and have a random length. Raises LeaseContended after a
    minute; ``what`` begins its sentence.
    """
    start, wait = time.monotonic(), _FIRST_WAIT
    while True:
        found = attempt()
        if found is not None:
            return found
        if time.monotonic() - start > _GIVE_UP:
            raise LeaseContended(
                "%s: other writers were faster for %d seconds; look for another controller that "
                "runs against the same hosts" % (what, _GIVE_UP)
            )
        time.sleep(random.uniform(0, wait))
        wait = min(wait * 2, _LONGEST_WAIT)


def read_basis(registry: Registry, host: Host) -> tuple[KeyValue | None, list[Compare]]:
    """The config's key, and conditions for a transaction: nobody has changed the config, or
    acquired a lease for this host or its address, since this was called."""
    keys = (registry.config_key, *Guards(registry.prefix, host.host_id, host.public_ip).keys)
    answer = registry.client.txn([], [Op.get(key) for key in keys])
    entries = [each.kvs[0] if each.kvs else None for each in answer.ranges]
    return entries[0], [unchanged(key, entry) for key, entry in zip(keys, entries)]


def write(
    registry: Registry, decision: Decision, conditions: list[Compare], ttl: int
) -> Lease | None:
    """Write the lease of the decision, and its guards. Returns the lease as it is in etcd; None if
    something was changed meanwhile."""
    after = decision.after
    # The lease that is overwritten. A move writes another key and leaves the old one alone.
    replaced = None if decision.moved else decision.before
    client, key = registry.client, registry.lease_key(after)
    key_unchanged = Compare.mod_revision(key, replaced.mod_revision if replaced else 0)
    etcd_lease = client.lease_grant(ttl).id if ttl else 0
    operations = [Op.put(key, after.to_json(), etcd_lease)]
    operations += Guards.of(registry.prefix, after).put(after, etcd_lease)
    answer = client.txn([*conditions, key_unchanged], operations)
    if not answer.succeeded:
        if etcd_lease:
            client.lease_revoke(etcd_lease)
        return None
    if replaced:
        _clear(registry, replaced, after)
    return after._replace(
        mod_revision=answer.revision,
        etcd_lease=etcd_lease,
        create_revision=replaced.create_revision
        if replaced and replaced.mod_revision
        else answer.revision,
    )


def remove(registry: Registry, lease: Lease, kept: Lease | None = None) -> bool:
    """Remove a lease; False if something was changed meanwhile.

    ``kept`` is the lease that the host has instead. ``lease`` is removed only if ``kept`` is still
    there. So if two controllers disagree which lease to keep, they do not remove both, and the host
    always has one. Without ``kept`` the guards are removed as well.
    """
    key = registry.lease_key(lease)
    compares = [Compare.mod_revision(key, lease.mod_revision)]
    operations = [Op.delete(key)]
    if kept:
        compares.append(Compare.mod_revision(registry.lease_key(kept), kept.mod_revision))
    elif lease.host_id:
        operations += Guards.of(registry.prefix, lease).delete()
    done = registry.client.txn(compares, operations).succeeded
    if done:
        _clear(registry, lease, kept)
    return done


def _clear(registry: Registry, gone: Lease, kept: Lease | None) -> None:
    """Remove what a removed lease has left and ``kept`` does not need.

    A flanneld's lease leaves nothing: it has no guards, and its etcd lease runs out by itself.
    """
    if not gone.host_id:
        return
    client = registry.client
    if kept:
        needed = Guards.of(registry.prefix, kept).keys
        for guard in Guards.of(registry.prefix, gone).keys:
            if guard not in needed:
                # Unless another host has taken it up meanwhile.
                client.txn([Compare.value(guard, gone.key_name)], [Op.delete(guard)])
    if gone.etcd_lease:
        # We granted it, for this key alone.
        client.lease_revoke(gone.etcd_lease)
