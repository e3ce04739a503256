# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which subnet a host gets.

Pure. If all hosts of a fleet start at once and each takes the lowest free subnet, all want the same
one. Here a host's identity decides where the host starts to look and how far it steps. So hosts
spread over the pool, and a host that lost its lease gets its former subnet again if that is free.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from math import gcd

from ..addresses import span
from ..errors import FlatnetError
from .config import Network, Pool


class SubnetExhausted(FlatnetError):
    """Every subnet between SubnetMin and SubnetMax is taken."""


class SubnetUnavailable(FlatnetError):
    """The subnet that was asked for by name is taken, or the network does not lease it."""


def choose(
    pool: Pool,
    taken: Iterable[str],
    identity: str,
    prefer: str | None = None,
    avoid: Iterable[str] = (),
) -> str:
    """A free subnet of ``pool`` for the host ``identity``.

    ``taken`` are the subnets of all leases, valid or not, of any length and family. ``avoid`` are
    prefixes that the host itself uses otherwise, such as its underlay's. ``prefer`` is used if it
    is free. Raises SubnetExhausted, which has the numbers.
    """
    used: set[int] = set()
    leases = 0
    for prefix in taken:
        indexes = _indexes(pool, prefix)
        leases += bool(indexes)
        used.update(indexes)
    own: set[int] = set()
    for prefix in avoid:
        own.update(_indexes(pool, prefix))
    if prefer and is_member(pool, prefer):
        index = _indexes(pool, str(ipaddress.ip_network(prefer)))[0]
        if index not in used and index not in own:
            return str(_subnet(pool, index))
    size = pool.size
    if len(used | own) >= size:
        ways = ["widen SubnetMin and SubnetMax"]
        if own - used:
            ways.insert(0, "give this host's own networks other addresses")
        if used and len(own) < size:
            ways.insert(0, "release leases of hosts that are gone")
        raise SubnetExhausted(
            "no free /%d left in %s: SubnetMin %s to SubnetMax %s are %d subnets, "
            "%d of them taken by %d leases%s; %s"
            % (
                pool.subnet_len,
                pool.network,
                pool.subnet_min.network_address,
                pool.subnet_max.network_address,
                size,
                len(used),
                leases,
                " and %d by networks of this host" % len(own - used) if own - used else "",
                ", or ".join(ways),
            )
        )
    # Double hashing: a step coprime to the size visits every subnet once, and two hosts that
    # start at the same place part ways with the next step.
    digest = hashlib.sha256(("%s %s" % (pool.network, identity)).encode()).digest()
    index = int.from_bytes(digest[:8], "big") % size
    step = int.from_bytes(digest[8:16], "big") % size or 1
    while gcd(step, size) != 1:
        step += 1
    while index in used or index in own:
        index = (index + step) % size
    return str(_subnet(pool, index))


def require_free(pool: Pool, taken: Iterable[str], subnet: str) -> str:
    """``subnet`` in canonical form. Raises SubnetUnavailable if it is not one of the pool's, or if
    it overlaps a lease."""
    if not is_member(pool, subnet):
        raise SubnetUnavailable(
            "subnet %s is not a /%d between SubnetMin %s and SubnetMax %s of %s"
            % (
                subnet,
                pool.subnet_len,
                pool.subnet_min.network_address,
                pool.subnet_max.network_address,
                pool.network,
            )
        )
    wanted = str(ipaddress.ip_network(subnet))
    others = overlapping(taken, wanted, pool.network.max_prefixlen)
    if others:
        raise SubnetUnavailable("subnet %s overlaps the lease of %s" % (subnet, others[0]))
    return wanted


def near(pool: Pool, subnet: str) -> str | None:
    """The subnet of ``pool`` that contains ``subnet``, or the first one inside of ``subnet``; None
    if the pool has neither.

    So a host whose subnet becomes smaller or larger stays where nobody else is. On the way back it
    gets its former subnet.
    """
    indexes = _indexes(pool, subnet)
    return str(_subnet(pool, indexes[0])) if indexes else None


def overlapping(prefixes: Iterable[str], subnet: str, bits: int = 32) -> list[str]:
    """The ``prefixes`` that have an address in common with ``subnet``; ``bits`` as in ``span``."""
    first, last = span(subnet, bits)
    spans = ((prefix, span(prefix, bits)) for prefix in prefixes)
    return [prefix for prefix, (low, high) in spans if low <= last and first <= high]


def is_within(pool: Pool, subnet: str) -> bool:
    """Whether ``subnet``, of any length, lies in the pool's network."""
    low, high = span(str(pool.network), pool.network.max_prefixlen)
    first, last = span(subnet, pool.network.max_prefixlen)
    return low <= first <= last <= high


def is_member(pool: Pool, subnet: str) -> bool:
    """Whether ``subnet`` is one that this pool could lease."""
    try:
        network = ipaddress.ip_network(subnet)
    except ValueError:
        return False
    return (
        network.version == pool.network.version
        and network.prefixlen == pool.subnet_len
        and int(pool.subnet_min.network_address)
        <= int(network.network_address)
        <= int(pool.subnet_max.network_address)
    )


def _subnet(pool: Pool, index: int) -> Network:
    step = 1 << (pool.network.max_prefixlen - pool.subnet_len)
    first = int(pool.subnet_min.network_address)
    return type(pool.network)((first + index * step, pool.subnet_len))


def _indexes(pool: Pool, prefix: str) -> range:
    """The indexes of the pool's subnets that ``prefix`` covers, at least in part."""
    bits = pool.network.max_prefixlen
    step = 1 << (bits - pool.subnet_len)
    first = int(pool.subnet_min.network_address)
    low, high = span(prefix, bits)
    return range(max((low - first) // step, 0), min((high - first) // step, pool.size - 1) + 1)
