# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guards: two keys of each host that let only one of two acquisitions succeed.

The problem: etcd can make sure that a key is written only once, so two hosts never get one subnet.
But nothing stops two acquisitions for one host, made by two controllers at the same time, from
writing two different free subnets. Both listed the leases before the other one wrote, so neither
sees the other. The same goes for two hosts that record one address.

The solution: each acquisition also writes two keys, ``flatnet/hosts/<host id>`` and
``flatnet/addresses/<public ip>``, in the transaction that writes its lease:

1. It reads its guards, and the config, and remembers their revisions.
2. It lists the leases, and decides.
3. It writes the lease and the guards, on the condition that the guards and the config still have
   the revisions of step 1.

If another acquisition for this host or this address was faster, it has changed a guard, so the
transaction fails. The next attempt lists the leases again and finds what the other one wrote.

A guard's value is the name of its lease's key, for people who look. Guards decide nothing else:
nobody reads one to find a lease, and a guard that is left over does no harm. A flanneld has none.
"""

from __future__ import annotations

from ..etcd.client import Compare, KeyValue, Op
from ..flannel.lease import Lease


class Guards:
    """The guards of one host at one address, below a network's prefix."""

    def __init__(self, prefix: str, host_id: str, public_ip: str) -> None:
        self.keys = (
            "%s/flatnet/hosts/%s" % (prefix, host_id),
            "%s/flatnet/addresses/%s" % (prefix, public_ip),
        )

    @classmethod
    def of(cls, prefix: str, lease: Lease) -> Guards:
        """Those of the host that holds this lease, which has to record an identity."""
        return cls(prefix, lease.host_id, lease.public_ip)

    def put(self, lease: Lease, etcd_lease: int) -> list[Op]:
        """What writes them for a lease, to go when it goes."""
        return [Op.put(key, lease.key_name, etcd_lease) for key in self.keys]

    def delete(self) -> list[Op]:
        """What removes them."""
        return [Op.delete(key) for key in self.keys]


def unchanged(key: str, entry: KeyValue | None) -> Compare:
    """The condition that nobody has written or removed a key since it was read as ``entry``."""
    return Compare.mod_revision(key, entry.mod_revision if entry else 0)
