# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network's config, ``<prefix>/config``: flannel's fields, defaults and rules.

Pure. Parses what anybody may have written, validates it once, and serialises it so that every
flannel since v0.20 reads the same network (``pkg/subnet/config.go``).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Union

from ..backends import known
from ..backends.protocol import Backend
from ..errors import InvalidInput
from ..fields import boolean, dumps, fold, given, load_object, show, whole_number

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

# Loopback and multicast, which no host's subnet may hide.
_RESERVED = tuple(map(ipaddress.ip_network, "127.0.0.0/8 224.0.0.0/4 ::1/128 ff00::/8".split()))
_RESERVED_IPV4 = tuple(
    (int(each.network_address), int(each.broadcast_address))
    for each in _RESERVED
    if each.version == 4
)


class InvalidConfig(InvalidInput):
    """``<prefix>/config`` breaks one of flannel's rules, or one that flannel forgot.

    ``fields`` are the config's, ``Network`` or ``Backend.VNI``.
    """


@dataclass(frozen=True)
class Pool:
    """One address family of the config: where subnets are taken from.

    ``subnet_min`` and ``subnet_max`` are the first and the last subnet that may be leased.
    """

    network: Network
    subnet_len: int
    subnet_min: Network
    subnet_max: Network

    @property
    def size(self) -> int:
        """How many subnets the pool has."""
        step = 1 << (self.network.max_prefixlen - self.subnet_len)
        low, high = int(self.subnet_min.network_address), int(self.subnet_max.network_address)
        return (high - low) // step + 1

    def to_dict(self, prefix: str) -> dict[str, Any]:
        """The config's fields; what equals flannel's default is left out."""
        out: dict[str, Any] = {prefix + "Network": str(self.network)}
        default = _pool(prefix, self.network, self.subnet_len, None, None)
        out[prefix + "SubnetLen"] = self.subnet_len
        if self.subnet_min != default.subnet_min:
            out[prefix + "SubnetMin"] = str(self.subnet_min.network_address)
        if self.subnet_max != default.subnet_max:
            out[prefix + "SubnetMax"] = str(self.subnet_max.network_address)
        return out


@dataclass(frozen=True)
class NetworkConfig:
    """``<prefix>/config``, defaults filled in. ``ipv6`` is None unless ``EnableIPv6``."""

    ipv4: Pool
    backend: Backend
    ipv6: Pool | None = None

    @property
    def network(self) -> str:
        return str(self.ipv4.network)

    def to_dict(self) -> dict[str, Any]:
        out = self.ipv4.to_dict("")
        if self.ipv6:
            out["EnableIPv6"] = True
            out.update(self.ipv6.to_dict("IPv6"))
        out["Backend"] = known.to_dict(self.backend)
        return out

    def to_json(self) -> str:
        return dumps(self.to_dict())


_CONFIG_FIELDS = {
    "Network",
    "SubnetLen",
    "SubnetMin",
    "SubnetMax",
    "EnableIPv4",
    "EnableIPv6",
    "IPv6Network",
    "IPv6SubnetLen",
    "IPv6SubnetMin",
    "IPv6SubnetMax",
    "Backend",
}


def parse_config(text: str | bytes) -> NetworkConfig:
    """Parse ``<prefix>/config``; keys are matched case-insensitively as Go does.

    Raises InvalidConfig naming the field.
    """
    return config_from_dict(load_object(text, InvalidConfig, "the network config"))


def config_from_dict(raw: dict[str, Any]) -> NetworkConfig:
    """As ``parse_config``, from a decoded object such as a module's options."""
    try:
        return _parse(fold(raw, _CONFIG_FIELDS))
    except InvalidConfig:
        raise
    except InvalidInput as error:
        raise InvalidConfig(str(error), *error.fields) from None


def _parse(fields: dict[str, Any]) -> NetworkConfig:
    ipv4_on = boolean("EnableIPv4", fields.get("EnableIPv4"), True)
    ipv6_on = boolean("EnableIPv6", fields.get("EnableIPv6"), False)
    if not ipv4_on:
        raise InvalidConfig(
            "EnableIPv4 is false: flannel cannot keep IPv6-only leases in etcd; "
            "leave IPv4 enabled and add IPv6 for dual stack",
            "EnableIPv4",
        )
    backend = fields.get("Backend")
    if backend is not None and not isinstance(backend, dict):
        raise InvalidConfig("Backend must be an object, not %s" % show(backend), "Backend")
    return NetworkConfig(
        ipv4=_parse_pool(fields, "", 4),
        ipv6=_parse_pool(fields, "IPv6", 6) if ipv6_on else None,
        backend=known.parse(backend or {}),
    )


def _parse_pool(fields: dict[str, Any], prefix: str, version: int) -> Pool:
    name = prefix + "Network"
    text = given(fields.get(name))
    if text is None:
        raise InvalidConfig("%s is required" % name, name)
    network = _network(name, text, version)
    length = fields.get(prefix + "SubnetLen")
    if length is not None:
        length = whole_number(prefix + "SubnetLen", length, None, 0, network.max_prefixlen) or None
    return _pool(
        prefix,
        network,
        length,
        fields.get(prefix + "SubnetMin"),
        fields.get(prefix + "SubnetMax"),
    )


def _pool(prefix: str, network: Network, length: int | None, low: Any, high: Any) -> Pool:
    bits = network.max_prefixlen
    widest, usual = (30, 24) if bits == 32 else (126, 64)
    if length is None:
        if network.prefixlen > widest - 2:
            raise InvalidConfig(
                "%sNetwork %s has no room for subnets; use a /%d or a larger network"
                % (prefix, network, widest - 2),
                prefix + "Network",
            )
        length = usual if network.prefixlen <= usual - 2 else network.prefixlen + 2
    if length > widest:
        raise InvalidConfig(
            "%sSubnetLen %d is longer than /%d" % (prefix, length, widest), prefix + "SubnetLen"
        )
    if length < network.prefixlen + 2:
        raise InvalidConfig(
            "%sSubnetLen %d leaves fewer than 4 subnets in %s; use %d or more"
            % (prefix, length, network, network.prefixlen + 2),
            prefix + "SubnetLen",
        )
    step = 1 << (bits - length)
    first = int(network.network_address)
    subnet_min = _bound(prefix + "SubnetMin", low, network, length, first + step)
    subnet_max = _bound(
        prefix + "SubnetMax", high, network, length, first + network.num_addresses - step
    )
    if int(subnet_min.network_address) > int(subnet_max.network_address):
        raise InvalidConfig(
            "%sSubnetMin %s is above %sSubnetMax %s: no subnet could ever be leased"
            % (prefix, subnet_min.network_address, prefix, subnet_max.network_address),
            prefix + "SubnetMin",
            prefix + "SubnetMax",
        )
    return Pool(network, length, subnet_min, subnet_max)


def _bound(name: str, text: Any, network: Network, length: int, default: int) -> Network:
    kind = type(network)
    if given(text) is None:
        return kind((default, length))
    address = _address(name, text, network.version)
    if address not in network:
        raise InvalidConfig("%s %s is outside %s" % (name, address, network), name)
    try:
        return kind((int(address), length))
    except ValueError:
        raise InvalidConfig(
            "%s %s is not the first address of a /%d subnet" % (name, address, length), name
        ) from None


def _network(name: str, text: Any, version: int) -> Network:
    try:
        network = ipaddress.ip_network(text, strict=False) if isinstance(text, str) else None
    except ValueError:
        network = None
    # ipaddress also takes netmasks and zones, Go does not.
    plain = network is not None and re.fullmatch(r"[^/%]+/[0-9]{1,3}", text)
    if network is None or network.version != version or not plain:
        example = "10.5.0.0/16" if version == 4 else "fd00:10::/48"
        raise InvalidConfig(
            "%s %s is not an IPv%d network such as %s" % (name, show(text), version, example), name
        )
    if reserved(network):
        raise InvalidConfig(
            "%s %s cannot carry an overlay: it holds loopback or multicast addresses"
            % (name, network),
            name,
        )
    return network


def reserved_ipv4(first: int, last: int) -> bool:
    """As ``reserved``, for IPv4 addresses from ``first`` to ``last`` as numbers."""
    return any(low <= last and first <= high for low, high in _RESERVED_IPV4)


def reserved(network: Network) -> bool:
    """Whether a network holds loopback or multicast addresses, which no pod can have. The default
    route holds them too."""
    return any(each.version == network.version and each.overlaps(network) for each in _RESERVED)


def _address(name: str, text: Any, version: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(text) if isinstance(text, str) else None
    except ValueError:
        address = None
    if address is None or address.version != version or "%" in text:
        raise InvalidConfig("%s %s is not an IPv%d address" % (name, show(text), version), name)
    return address
