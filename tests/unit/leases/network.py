# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network on a fake etcd, and hosts that want leases of it."""

from __future__ import annotations

import json

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import EtcdClient
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.assignment import (
    Wish,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.host import Host
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import Lease
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases import (
    acquire,
    release,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.registry import (
    Registry,
)

from tests.unit.leases.fake_etcd import FakeEtcd

PREFIX = "/coreos.com/network"
SUBNETS = PREFIX + "/subnets/"
GUARDS = PREFIX + "/flatnet/"
NO_WISH = Wish()


def host(number: int, **changes: str) -> Host:
    """The host of this number: an identity, a name and an address of its own."""
    return Host("%032x" % number, "host%d" % number, "192.0.2.%d" % number)._replace(**changes)


class Network:
    """One network with ``size`` subnets; each call has its own registry, as a controller has."""

    def __init__(self, size: int = 200, kind: str = "vxlan") -> None:
        self.etcd = FakeEtcd()
        self.configure(size, kind)

    def configure(self, size: int, kind: str = "vxlan") -> None:
        config = {
            "Network": "10.5.0.0/16",
            "SubnetMin": "10.5.1.0",
            "SubnetMax": "10.5.%d.0" % size,
            "Backend": {"Type": kind},
        }
        self.etcd.put(PREFIX + "/config", json.dumps(config))

    def registry(self, client: EtcdClient | None = None) -> Registry:
        return Registry(client or self.etcd.client(), PREFIX)

    def acquire(self, who: Host, wish: Wish = NO_WISH, ttl: int = 0) -> acquire.Outcome:
        return acquire.acquire(self.registry(), who, wish, ttl)

    def release(self, who: Host) -> tuple[Lease, ...]:
        return release.release(self.registry(), who.host_id)

    def put(self, name: str, value: str) -> None:
        """As somebody else would write it below ``subnets``."""
        self.etcd.put(SUBNETS + name, value)

    def flanneld(self, name: str, public_ip: str) -> None:
        """The lease of a host that runs flanneld."""
        self.put(
            name,
            '{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan",'
            '"BackendData":{"VNI":1,"VtepMAC":"4a:be:f1:a6:ee:c3"}}' % public_ip,
        )

    @property
    def leases(self) -> tuple[Lease, ...]:
        return self.registry().snapshot().leases

    @property
    def guards(self) -> dict[str, str]:
        """Each guard, named from below the prefix on, with its value."""
        return {
            key[len(GUARDS) :]: entry.value.decode()
            for key, entry in self.etcd.keys.items()
            if key.startswith(GUARDS)
        }

    def check_history(self) -> None:
        """No transaction has changed more than one lease: a flanneld would see only the first."""
        for changed in self.etcd.history:
            assert sum(key.startswith(SUBNETS) for key in changed) <= 1, changed


def guards_of(lease: Lease) -> dict[str, str]:
    return {
        "hosts/" + lease.host_id: lease.key_name,
        "addresses/" + lease.public_ip: lease.key_name,
    }
