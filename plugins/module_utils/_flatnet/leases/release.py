# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove a host's lease."""

from __future__ import annotations

from ..etcd.client import EtcdError
from ..flannel.lease import Lease
from .registry import Registry
from .transactions import remove, repeat


def release(registry: Registry, host_id: str) -> tuple[Lease, ...]:
    """Remove the leases that record this identity, with their guards; returns what was removed.

    A lease without an identity belongs to a flanneld and stays.
    """
    removed: dict[str, Lease] = {}

    def attempt() -> tuple[Lease, ...] | None:
        leases = registry.snapshot().of_host(host_id)
        removed.update((lease.key_name, lease) for lease in leases)
        try:
            done = all(remove(registry, lease) for lease in leases)
        except EtcdError as error:
            if not error.maybe_applied:
                raise
            return None  # the next attempt sees whether it was applied
        return tuple(removed.values()) if done else None

    return repeat("the lease of host id %s" % host_id, attempt)
