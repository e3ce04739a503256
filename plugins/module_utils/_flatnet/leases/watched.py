# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease registry, and what is written to it from now on."""

from __future__ import annotations

from typing import Callable

from ..etcd.client import EtcdLeaseNotFound
from ..etcd.watching import Pulse, Watch, WatchingClient
from ..flannel.lease import DEFAULT_PREFIX, Lease
from .registry import Registry


class WatchedRegistry(Registry):
    """As Registry, with watches, and with what a connection needs that lasts."""

    def __init__(self, client: WatchingClient, prefix: str = DEFAULT_PREFIX) -> None:
        super().__init__(client, prefix)
        self._watching = client

    def watch(self, revision: int) -> Watch:
        """Everything that is written below the prefix after ``revision``."""
        return self._watching.watch(self.prefix + "/", revision + 1)

    def pulse(self, endpoint: str) -> Pulse:
        """Questions to the endpoint of a watch whether it is still there: see etcd.Pulse."""
        return self._watching.pulse(endpoint, self.config_key)

    def while_waiting(self, call: Callable[[], None]) -> None:
        """Have this called every now and then while etcd is waited for."""
        self._watching.while_waiting(call)

    def avoid(self, endpoint: str) -> None:
        """Have the next calls and watches go to other endpoints first."""
        self._watching.avoid(endpoint)

    @property
    def reached(self) -> tuple[str, ...]:
        """The addresses of etcd that are connected to now."""
        return self._watching.reached

    def disconnect(self) -> None:
        """Have the next call connect anew: connections do not survive a change of our address."""
        self._watching.close()

    def keep_alive(self, lease: Lease) -> bool:
        """Renew a lease that has a TTL; False if it ran out."""
        if lease.etcd_lease:
            try:
                self._watching.lease_keepalive(lease.etcd_lease)
            except EtcdLeaseNotFound:
                return False
        return True
