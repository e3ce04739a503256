# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that the unit tests share: strategies for hypothesis, and a small fleet."""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterable

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import Vtep
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    NetworkConfig,
    config_from_dict,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import (
    Lease,
    parse_lease,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Address,
    Entry,
    Fdb,
    Neigh,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import Changes
from hypothesis import strategies as st

# --- addresses ------------------------------------------------------------------------------------


def numbers(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << bits) - 1)


ipv4 = numbers(32).map(lambda number: str(ipaddress.IPv4Address(number)))
ipv6 = numbers(128).map(lambda number: str(ipaddress.IPv6Address(number)))
ips = ipv4 | ipv6


def prefix_of(address: str, length: int) -> str:
    return str(ipaddress.ip_network("%s/%d" % (address, length), strict=False))


prefixes4 = st.builds(prefix_of, ipv4, st.integers(0, 32))
prefixes6 = st.builds(prefix_of, ipv6, st.integers(0, 128))

# Unicast addresses between 1.0.0.0 and 223.255.255.255 that are not loopback.
host_ips = (
    st.integers(1 << 24, (224 << 24) - 1)
    .filter(lambda number: number >> 24 != 127)
    .map(lambda number: str(ipaddress.IPv4Address(number)))
)


def mac_of(number: int) -> str:
    return ":".join("%02x" % byte for byte in number.to_bytes(6, "big"))


macs = numbers(48).map(mac_of)
unicast_macs = numbers(48).map(lambda number: number & ~(1 << 40)).filter(bool).map(mac_of)
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)

# --- what a network and its leases can be ---------------------------------------------------------


@st.composite
def configs(draw: st.DrawFn, dual: bool | None = None, most: int = 128) -> NetworkConfig:
    """Any valid config; an IPv4 pool has at most 2 ** ``most`` subnets."""
    fields: dict[str, object] = dict(_pool(draw, "", 4, most))
    if dual if dual is not None else draw(st.booleans()):
        fields.update(_pool(draw, "IPv6", 6), EnableIPv6=True)
    kind = draw(st.sampled_from(["vxlan", "host-gw", "udp", "alloc"]))
    backend: dict[str, object] = {"Type": kind}
    for name, values in (
        ("VNI", st.integers(1, (1 << 24) - 1)),
        ("Port", st.integers(1, 65535)),
        ("MTU", st.integers(576, 65535)),
        ("GBP", st.booleans()),
        ("Learning", st.booleans()),
        ("DirectRouting", st.booleans()),
    ):
        if draw(st.booleans()):
            backend[name] = draw(values)
    fields["Backend"] = backend
    return config_from_dict(fields)


def _pool(draw: st.DrawFn, prefix: str, version: int, most: int = 128) -> dict[str, object]:
    bits, top = (32, 10 << 24) if version == 4 else (128, 0xFD << 120)
    longest = bits - 4
    length = draw(st.integers(8, longest))
    low = numbers(bits - 8).map(lambda number: number >> (bits - length) << (bits - length))
    network = ipaddress.ip_network((top | draw(low), length))
    subnet_len = draw(st.integers(length + 2, min(bits - 2, length + most)))
    count = 1 << (subnet_len - length)
    first, last = sorted([draw(st.integers(0, count - 1)), draw(st.integers(0, count - 1))])
    step = 1 << (bits - subnet_len)
    fields: dict[str, object] = {prefix + "Network": str(network), prefix + "SubnetLen": subnet_len}
    for name, index in (("SubnetMin", first), ("SubnetMax", last)):
        if draw(st.booleans()):
            fields[prefix + name] = str(network.network_address + index * step)
    if prefix + "SubnetMin" not in fields and last == 0:
        fields.pop(prefix + "SubnetMax", None)  # the default minimum is the second subnet
    return fields


subnets4 = st.builds(
    prefix_of,
    numbers(24).map(lambda n: "10.%d.%d.%d" % (n >> 16, n >> 8 & 255, n & 255)),
    st.integers(8, 32),
)
subnets6 = st.builds(
    prefix_of,
    numbers(112).map(lambda number: str(ipaddress.IPv6Address(0xFD10 << 112 | number))),
    st.integers(16, 128),
)


@st.composite
def leases(draw: st.DrawFn) -> Lease:
    """Any valid lease, ours or a flanneld's, of any backend, single or dual stack."""
    dual = draw(st.booleans())
    kind = draw(st.sampled_from(["vxlan", "host-gw", "", "wireguard"]))
    vxlan = kind == "vxlan"
    vni = draw(st.none() | st.integers(1, (1 << 24) - 1))
    host_id = draw(st.just("") | st.uuids().map(lambda uuid: uuid.hex))
    return Lease(
        subnet=draw(subnets4),
        public_ip=draw(host_ips),
        backend_type=kind,
        data=Vtep(vni, draw(unicast_macs)) if vxlan else None,
        subnet6=draw(subnets6) if dual else None,
        public_ip6=draw(subnets6).partition("/")[0] if dual else None,
        data6=Vtep(vni, draw(unicast_macs)) if vxlan and dual else None,
        host_id=host_id,
        hostname=draw(st.just("") | names) if host_id else "",
    )


# --- what a kernel can hold -----------------------------------------------------------------------

devices = st.sampled_from(["eth0", "flannel.1", "cni0"])
addresses = st.builds(
    Address,
    devices,
    st.builds("{}/{}".format, ipv4, st.integers(0, 32))
    | st.builds("{}/{}".format, ipv6, st.integers(0, 128)),
)
neighs = st.builds(Neigh, devices, ips, macs)
optional_vni = st.none() | st.integers(0, (1 << 24) - 1)
fdbs = st.builds(
    Fdb,
    devices,
    macs | st.just("00:00:00:00:00:00"),
    ips,
    st.none() | st.integers(1, 65535),
    optional_vni,
    st.none() | devices,
    optional_vni,
)


def _routes(
    prefixes: st.SearchStrategy[str], ips: st.SearchStrategy[str]
) -> st.SearchStrategy[Route]:
    return st.builds(
        Route,
        prefixes,
        devices,
        st.none() | ips,
        st.booleans(),
        st.none() | st.integers(68, 65535),
        st.none() | ips,
        # 1024 is what an IPv6 route without a metric has in the kernel.
        st.integers(0, (1 << 32) - 1).filter(lambda metric: metric != 1024),
        st.integers(1, (1 << 32) - 1),
        st.integers(0, 255),
    )


routes4 = _routes(prefixes4, ips)
routes6 = _routes(prefixes6, ipv6)
routes = routes4 | routes6

# --- a kernel as a dictionary ---------------------------------------------------------------------

Kernel = dict[Hashable, Entry]


def kernel_of(entries: Iterable[Entry]) -> Kernel:
    return {entry.key: entry for entry in entries}


def apply(changes: Changes, kernel: Kernel) -> Kernel:
    """As strict as the kernel: what is changed or removed is there as it was, what is added not."""
    result = dict(kernel)
    for before, after in changes:
        if before is None:
            assert after is not None
            assert after.key not in result
        else:
            assert result.pop(before.key) == before
        if after is not None:
            assert before is None or before.key == after.key
            result[after.key] = after
    return result


# --- a fleet as a flanneld leaves it: captured ----------------------------------------------------

CONFIG = '{"Network": "100.96.0.0/16", "Backend": {"Type": "vxlan"}}'
VXLAN = (
    '{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"%s"}}'
)
FLEET = {
    "100.96.45.0-24": VXLAN % ("10.168.0.11", "32:53:f8:08:97:41"),
    "100.96.57.0-24": VXLAN % ("10.168.0.12", "fa:64:8e:9e:ba:64"),
    "100.96.30.0-24": VXLAN % ("10.168.0.13", "4a:73:e1:76:ac:41"),
}


def fleet() -> list[Lease]:
    """The three leases of FLEET, that of 10.168.0.11 first."""
    return [parse_lease(name, value) for name, value in FLEET.items()]
