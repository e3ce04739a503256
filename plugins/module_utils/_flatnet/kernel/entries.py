# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a kernel can hold, as values.

Pure. Each class is one kind of object that this collection puts into a kernel. Two values with
the same ``key`` are two states of one object: the kernel holds at most one of them, and going from
one to the other is a replacement in place. ``str()`` is the line that ``--diff`` and errors show,
in iproute2's words.

Addresses are canonical strings, as ``ipaddress`` prints them.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple, Union

# Our rtm_protocol: what makes a route ours. Not in the kernel's or iproute2's lists (those end at
# 192 with gaps; static routes of administrators are 3 and 4, daemons use 8 to 18, 42, 99, 186-192).
PROTOCOL = 110
PROTOCOL_NAMES = {
    0: "unspec",
    1: "redirect",
    2: "kernel",
    3: "boot",
    4: "static",
    16: "dhcp",
    186: "bgp",
    188: "ospf",
    PROTOCOL: "flatnet",
}
MAIN_TABLE = 254
ZERO_MAC = "00:00:00:00:00:00"
# What VXLAN takes of the underlay's MTU, by the version of IP there: inner Ethernet 14, outer IP 20
# or 40, UDP 8, VXLAN 8. flannel takes 50 for IPv6 too.
VXLAN_OVERHEAD = {4: 50, 6: 70}
MAX_VNI = (1 << 24) - 1  # of 24 bits


class Interface(NamedTuple):
    """A device by its name, index and MTU in bytes."""

    name: str
    number: int
    mtu: int


class Link(NamedTuple):
    """A bridge, a VXLAN or a TUN device.

    ``options`` are those of its kind, sorted by name, named as in ``ip link``. An option that is
    missing is left as it is, and so are ``mtu``, ``mac`` and ``master`` if they are None.
    ``master`` "" means no master.
    """

    name: str
    kind: str
    mtu: int | None = None
    mac: str | None = None
    master: str | None = None
    up: bool | None = True
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> Hashable:
        return ("link", self.name)

    @property
    def option(self) -> dict[str, Any]:
        return dict(self.options)

    def to_dict(self) -> dict[str, Any]:
        """For people and playbooks: all in one dictionary, with the options."""
        found = self._asdict()
        found.update(found.pop("options"))
        return found

    def __str__(self) -> str:
        words = ["link %s" % self.name] + ["type %s" % self.kind] * bool(self.kind)
        words += [
            "%s %s" % (name, format_option(value))
            for name, value in self.options
            if value is not None
        ]
        for name, value in (("mtu", self.mtu), ("address", self.mac), ("master", self.master)):
            if value:
                words.append("%s %s" % (name, value))
        if self.up is not None:
            words.append("up" if self.up else "down")
        return " ".join(words)


class Port(NamedTuple):
    """A port of a bridge. ``neigh_suppress``: the bridge does not send out of it what it can answer
    itself, nor what members say of their own addresses unasked."""

    dev: str
    neigh_suppress: bool = False

    @property
    def key(self) -> Hashable:
        return ("port", self.dev)

    def __str__(self) -> str:
        return "port %s neigh_suppress %s" % (self.dev, format_option(self.neigh_suppress))


class Address(NamedTuple):
    """An address of a device, with its prefix length: ``10.5.94.1/24``.

    A device can have one IPv4 address with several prefix lengths, an IPv6 address only once.
    """

    dev: str
    address: str

    @property
    def key(self) -> Hashable:
        text = self.address.partition("/")[0] if ":" in self.address else self.address
        return ("address", self.dev, text)

    def __str__(self) -> str:
        return "address %s dev %s" % (self.address, self.dev)


class Device(NamedTuple):
    """A device as it should be. ``exclusive``: other addresses are removed. If not, only the
    ``former`` one is removed."""

    link: Link
    addresses: tuple[Address, ...]
    exclusive: bool
    former: str = ""


class Neigh(NamedTuple):
    """A permanent ARP or ND entry."""

    dev: str
    address: str
    mac: str

    @property
    def key(self) -> Hashable:
        return ("neigh", self.dev, self.address)

    def __str__(self) -> str:
        return "neigh %s lladdr %s dev %s permanent" % (self.address, self.mac, self.dev)


class Fdb(NamedTuple):
    """A permanent forwarding entry of a VXLAN device: frames for ``mac`` go to the VTEP ``dst``.

    ``port`` and ``vni`` None mean the device's own; ``via`` is the underlay interface to send
    through. The kernel keeps one destination for a unicast MAC. So the MAC is the key, and a new
    destination replaces the old one in place. The zero MAC (head-end replication) and multicast
    MACs have a list of destinations, so the whole entry is the key.
    """

    dev: str
    mac: str
    dst: str
    port: int | None = None
    vni: int | None = None
    via: str | None = None
    src_vni: int | None = None

    @property
    def many(self) -> bool:
        """Whether the kernel keeps several destinations for this MAC."""
        return self.mac == ZERO_MAC or self.mac[1] in "13579bdf"

    @property
    def key(self) -> Hashable:
        if self.many:
            return ("fdb",) + self
        return ("fdb", self.dev, self.mac, self.src_vni)

    def __str__(self) -> str:
        words = "fdb %s dev %s dst %s" % (self.mac, self.dev, self.dst)
        for name in ("src_vni", "vni", "port", "via"):
            value = getattr(self, name)
            if value is not None:
                words += " %s %s" % (name, value)
        return words + " self permanent"


def default_destination(link: Link) -> Fdb | None:
    """The entry that the kernel makes by itself for a VXLAN device's own group."""
    group = link.option.get("group")
    return Fdb(link.name, ZERO_MAC, group, via=link.option.get("dev")) if group else None


class Route(NamedTuple):
    """A unicast route with one next hop. ``metric`` 0 means the family's default.

    Of routes of any other sort we know only the key. ``dev`` says in parentheses what they are:
    ``(blackhole)``, ``(several next hops)``. We never make, change or remove one.
    """

    dst: str
    dev: str
    gateway: str | None = None
    onlink: bool = False
    mtu: int | None = None
    src: str | None = None
    metric: int = 0
    table: int = MAIN_TABLE
    protocol: int = PROTOCOL

    @property
    def key(self) -> Hashable:
        return ("route", self.dst, self.table, self.metric)

    @property
    def simple(self) -> bool:
        return not self.dev.startswith("(")

    def __str__(self) -> str:
        words = "route " + self.dst
        if self.gateway:
            words += " via " + self.gateway
        words += " dev " + self.dev if self.simple else " " + self.dev
        if self.onlink:
            words += " onlink"
        for name, value in (("src", self.src), ("mtu", self.mtu), ("metric", self.metric)):
            if value:
                words += " %s %s" % (name, value)
        if self.table != MAIN_TABLE:
            words += " table %d" % self.table
        return words + " proto " + PROTOCOL_NAMES.get(self.protocol, str(self.protocol))


Entry = Union[Link, Port, Address, Neigh, Fdb, Route]


def format_option(value: Any) -> str:
    """A device option's value as ip-link prints it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)
