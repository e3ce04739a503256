# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a host may go over to another config of the network.

Pure. Somebody writes a config, and every host hears of it at once. It may be wrong, or the playbook
has yet to carry it out. If all hosts followed it at once, all data planes would be down together.
So a host goes by the former config until its lease, which the playbook moves, fits the new one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ..flannel.config import NetworkConfig
from ..flannel.lease import Lease


def misfit(config: NetworkConfig, own: Lease | None) -> str | None:
    """Why this host cannot be in such a network with its lease as it is in etcd; None if it can."""
    if config.ipv6:
        return "the network's config has EnableIPv6, and this version leases IPv4 subnets only"
    if own is None:
        return "etcd names no lease of this host"
    if not _inside(config, own):
        return "this host's subnet %s is outside the network %s" % (own.subnet, config.network)
    return config.backend.misfit(own)


def left_outside(
    former: NetworkConfig, config: NetworkConfig, usable: Iterable[Lease]
) -> str | None:
    """Which peers, reached until now, the new network has no place for; None if there are none."""
    if config.network == former.network:
        return None
    outside = [lease for lease in usable if not _inside(config, lease)]
    if not outside:
        return None
    return "%d peers would be outside the network %s: %s%s" % (
        len(outside),
        config.network,
        ", ".join("%s of %s" % (each.subnet, each.owner) for each in outside[:3]),
        ", ..." if len(outside) > 3 else "",
    )


def _inside(config: NetworkConfig, lease: Lease) -> bool:
    """Whether a lease's subnet is in the network; such a one is reached by all, also where the
    network leases others by now: see rules.Rules."""
    network = config.ipv4.network
    first = ipaddress.IPv4Address(lease.subnet.partition("/")[0])
    longer = int(lease.subnet.partition("/")[2]) >= network.prefixlen
    return first in network and longer


def describe(config: NetworkConfig) -> str:
    return "%s over %s" % (config.network, config.backend.type)
