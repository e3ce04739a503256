# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease registry: flannel's key space in etcd, below a prefix.

``config``
    The network's config.
``subnets/<subnet>``
    The leases. Nothing else is ever written below ``subnets``: flanneld peers act on every key.
``flatnet/hosts/<host id>``, ``flatnet/addresses/<public ip>``
    The guards of the leases that we write: see guards.py.
"""

from __future__ import annotations

from ..errors import FlatnetError
from ..etcd.client import EtcdClient, KeyValue
from ..flannel.config import InvalidConfig, NetworkConfig, parse_config
from ..flannel.lease import DEFAULT_PREFIX, InvalidLease, Lease, parse_lease, subnet_of_key
from .snapshot import Found, Garbage, Listing, Snapshot


class NoNetwork(FlatnetError):
    """There is no usable network config under the prefix."""


class Registry:
    """Leases under one prefix of one etcd."""

    def __init__(self, client: EtcdClient, prefix: str = DEFAULT_PREFIX) -> None:
        if not prefix.startswith("/") or prefix.endswith("/") or "//" in prefix:
            raise InvalidConfig(
                "etcd_prefix: %r must begin with a slash and not end with one, like %s"
                % (prefix, DEFAULT_PREFIX)
            )
        self.client = client
        self.prefix = prefix
        self.config_key = prefix + "/config"
        self._subnets = prefix + "/subnets/"

    # --- names of keys ----------------------------------------------------------------------------

    def is_config(self, key: str) -> bool:
        """Whether a key is the network's config."""
        return key == self.config_key

    def lease_name(self, key: str) -> str | None:
        """The key name of a lease; None if the key is not below ``subnets``."""
        return key[len(self._subnets) :] if key.startswith(self._subnets) else None

    def lease_key(self, lease: Lease) -> str:
        """The key of a lease."""
        return self._subnets + lease.key_name

    # --- the config and the leases ----------------------------------------------------------------

    def config_entry(self) -> KeyValue | None:
        """The config's key as it is, unparsed; None if there is none."""
        kvs = self.client.get(self.config_key).kvs
        return kvs[0] if kvs else None

    def config(self) -> NetworkConfig:
        """The network's config; NoNetwork if missing or broken."""
        return self.parse_entry(self.config_entry())

    def parse_entry(self, entry: KeyValue | None) -> NetworkConfig:
        """The config in ``entry``; raises NoNetwork if it is missing or broken."""
        if entry is None:
            raise NoNetwork(
                "etcd has no network config at %s; write one with flannel_network" % self.config_key
            )
        try:
            return parse_config(entry.value)
        except InvalidConfig as error:
            raise NoNetwork(
                "the network config at %s is not usable: %s" % (self.config_key, error)
            ) from None

    def find(self) -> Found:
        """The config, if there is one, and every lease, as they were at one revision."""
        answer = self.client.get(self.config_key)
        entry = answer.kvs[0] if answer.kvs else None
        config, problem = None, ""
        try:
            config = self.parse_entry(entry)
        except NoNetwork as error:
            problem = str(error)
        changed = entry.mod_revision if entry else 0
        return Found(config, self.snapshot(answer.revision), changed, problem)

    def listing(self, planned: NetworkConfig | None = None) -> Listing:
        """As ``find``, but raises NoNetwork if the config is missing or broken. ``planned`` takes
        its place, as if it had just been written."""
        found = self.find()
        if planned and planned != found.config:
            return Listing(planned, found.snapshot, found.snapshot.revision + 1)
        if found.config is None:
            raise NoNetwork(found.problem)
        return Listing(found.config, found.snapshot, found.config_revision)

    def snapshot(self, revision: int | None = None) -> Snapshot:
        """Every lease, at one revision, by default the present one."""
        found = self.client.range_prefix(self._subnets, revision=revision)
        leases: list[Lease] = []
        garbage: list[Garbage] = []
        start = len(self._subnets)
        for entry in found.kvs:
            name = entry.key[start:]
            try:
                lease = parse_lease(
                    name, entry.value, entry.mod_revision, entry.lease, entry.create_revision
                )
            except InvalidLease as error:
                garbage.append(
                    Garbage(entry.key, str(error), subnet_of_key(name), entry.mod_revision)
                )
            else:
                leases.append(lease)
        keys = {entry.key[start:]: entry.mod_revision for entry in found.kvs}
        return Snapshot(found.revision, tuple(leases), tuple(garbage), found.cluster, keys)
