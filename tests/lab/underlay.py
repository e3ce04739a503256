# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where everything is on the underlay, and the ip(8) commands that build it.

                     NAME-underlay
    host1 eth0 ── [bridge seg1] ── etcd1 …
                       │ 172.21.0.0/16
                  NAME-router
                       │ 172.22.0.0/16
    host2 eth0 ── [bridge seg2]

The addresses are the same in every lab: labs never meet, and no veth leads to the machine's own
network namespace.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from .system import ip_batch, parallel

MAX_SEGMENTS = 8
#: A Linux bridge takes 1024 ports; the router and etcd have a few of them.
MAX_HOSTS_PER_SEGMENT = 1000

ROUTER_OFFSET = 1
ETCD_OFFSET = 1  # member 1 gets .0.2
HOST_OFFSET = 10  # host1 gets .0.11


def segment_network(segment: int) -> IPv4Network:
    return IPv4Network((f"172.{20 + segment}.0.0", 16))


def router_address(segment: int) -> str:
    return str(segment_network(segment)[ROUTER_OFFSET])


def etcd_address(member: int) -> str:
    return str(segment_network(1)[ETCD_OFFSET + member])


def host_address(segment: int, number: int) -> str:
    return str(segment_network(segment)[HOST_OFFSET + number])


def host_segment(number: int, hosts: int, segments: int) -> int:
    """Hosts fill the segments in blocks, so that some share one and some do not."""
    return (number - 1) * segments // hosts + 1


def build(name: str, segments: int, mtu: int, nodes: list[tuple[str, int, str]]) -> None:
    """Join nodes, each (namespace, segment, address), which exist, to the underlay."""
    underlay, router = f"{name}-underlay", f"{name}-router"
    bridges = ["link set lo up"]
    for segment in range(1, segments + 1):
        # No multicast snooping: nobody queries on these bridges, so groups would be pruned.
        bridges.append(f"link add seg{segment} mtu {mtu} type bridge mcast_snooping 0")
        bridges.append(f"link set seg{segment} up")
    ip_batch(bridges, netns=underlay)

    ends = [(f"seg{s}", router, f"router{s}", s) for s in range(1, segments + 1)]
    _connect(underlay, mtu, ends)
    lines = ["link set lo up"]
    for segment in range(1, segments + 1):
        lines.append(f"addr add {router_address(segment)}/16 dev seg{segment}")
        lines.append(f"link set seg{segment} up")
    ip_batch(lines, netns=router)
    join(name, mtu, nodes)


def join(name: str, mtu: int, nodes: list[tuple[str, int, str]]) -> None:
    """Join nodes to an underlay that is there."""
    ends = [("eth0", netns, _port(name, netns), segment) for netns, segment, _address in nodes]
    _connect(f"{name}-underlay", mtu, ends)
    parallel(_configure, nodes)


def leave(name: str, netns: str) -> None:
    """Take a node off the underlay, which does away with its interface."""
    ip_batch([f"link del {_port(name, netns)}"], netns=f"{name}-underlay")


def _connect(underlay: str, mtu: int, ends: list[tuple[str, str, str, int]]) -> None:
    """Veths from (interface, namespace) to (port, segment)."""
    # Both ends are created where they belong and are never seen by the machine itself.
    ip_batch(
        f"link add {end} netns {netns} mtu {mtu} type veth peer name {port} mtu {mtu} "
        f"netns {underlay}"
        for end, netns, port, _segment in ends
    )
    ip_batch(
        (f"link set {port} master seg{segment} up" for _end, _netns, port, segment in ends),
        netns=underlay,
    )


def _configure(node: tuple[str, int, str]) -> None:
    netns, segment, address = node
    ip_batch(
        [
            "link set lo up",
            f"addr add {address}/16 brd + dev eth0",
            "link set eth0 up",
            f"route add default via {router_address(segment)}",
        ],
        netns=netns,
    )


def _port(name: str, netns: str) -> str:
    """The bridge port of a node: the node's name, which is short without the lab's."""
    return netns[len(name) + 1 :]
