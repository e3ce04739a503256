# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of hand-written leases, as a flanneld would have written them."""

from __future__ import annotations

import ipaddress
import json
import typing as t

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    EtcdClient,
    Op,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    parse_config,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import (
    Lease,
    parse_lease,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import Entry
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import peers
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.underlay import (
    Underlay,
)

PREFIX = "/coreos.com/network"
CONFIG = '{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan"}}'
DEVICE = "flannel.1"
_FIRST_SUBNET = int(ipaddress.IPv4Address("10.1.0.0"))
# Subnets of the lab's hosts are above those of the hand-written leases.
_OWN = "10.200.%d.0-24"
# RFC 2544's block for benchmarks. Nothing is ever sent there: a lab has no uplink.
_FIRST_PUBLIC_IP = int(ipaddress.IPv4Address("198.18.0.1"))
# etcd takes 128 operations in a transaction.
_CHUNK = 100


def lease(number: int) -> tuple[str, str]:
    """Key name and value of the lease of this number."""
    subnet = ipaddress.IPv4Address(_FIRST_SUBNET + number * 256)
    value = {
        "PublicIP": str(ipaddress.IPv4Address(_FIRST_PUBLIC_IP + number)),
        "PublicIPv6": None,
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": "0a:00:%s" % number.to_bytes(4, "big").hex(":")},
    }
    return "%s-24" % subnet, json.dumps(value, separators=(",", ":"))


def subnet(number: int) -> str:
    return lease(number)[0].replace("-", "/")


def put(client: EtcdClient, numbers: t.Iterable[int], chunk: int = _CHUNK) -> None:
    """Write leases, ``chunk`` in a transaction."""
    pairs = [lease(number) for number in numbers]
    for start in range(0, len(pairs), chunk):
        client.txn(
            [],
            [
                Op.put("%s/subnets/%s" % (PREFIX, name), value)
                for name, value in pairs[start : start + chunk]
            ],
        )


def put_own(client: EtcdClient, addresses: t.Iterable[str]) -> None:
    """Leases for the lab's hosts to take up, which have these addresses."""
    for number, address in enumerate(addresses):
        mac = "0a:01:00:00:00:%02x" % number
        value = {**json.loads(lease(0)[1]), "PublicIP": address}
        value["BackendData"]["VtepMAC"] = mac
        client.put("%s/subnets/%s" % (PREFIX, _OWN % number), json.dumps(value))


def leases(count: int) -> list[Lease]:
    return [parse_lease(*lease(number)) for number in range(count)]


def entries(count: int) -> tuple[Entry, ...]:
    """What the kernel should hold for so many peers."""
    underlay = Underlay("eth0", "172.21.0.11/16", 1500, "")
    return peers.entries(parse_config(CONFIG), leases(count), underlay, ())
