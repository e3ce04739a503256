# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices as rtnetlink tells of them: bytes in, Link out. Pure, but for users' names.

Reading is done here and not by pyroute2, since a host on which nothing changes reads its devices
all the same, and importing pyroute2 takes longer and more memory than everything else together.
Numbers are those of ``linux/if_link.h``.
"""

from __future__ import annotations

import pwd
import socket
import struct
from collections.abc import Mapping
from typing import Any, Callable

from .entries import Link, Port
from .netlink import attributes

_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = (
    1,
    3,
    4,
    5,
    10,
    18,
)
_IFLA_LINK_NETNSID = 37
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_BRPORT_NEIGH_SUPPRESS = 32
_IFF_UP = 1


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little" if struct.pack("=H", 1)[0] else "big")


def _port(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _flag(data: bytes) -> bool:
    return bool(_number(data))


def _present(_data: bytes) -> bool:
    """An attribute without a value: there or not."""
    return True


def _user(data: bytes) -> str:
    return _user_name(_number(data))


def _kind_of_tun(data: bytes) -> str:
    return {1: "tun", 2: "tap"}.get(_number(data), "")


def _address(data: bytes) -> str | None:
    if not any(data):
        return None
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


# For each kind: what ip-link calls the option, its attribute, how to read it, and what it is where
# the kernel leaves the attribute out.
_OPTIONS: dict[str, tuple[tuple[str, int, Callable[[bytes], Any], Any], ...]] = {
    "vxlan": (
        ("id", 1, _number, None),
        ("group", 2, _address, None),
        ("group", 16, _address, None),
        ("dev", 3, _number, None),
        ("local", 4, _address, None),
        ("local", 17, _address, None),
        ("ttl", 5, _number, 0),
        ("tos", 6, _number, 0),
        ("learning", 7, _flag, False),
        ("ageing", 8, _number, None),
        ("proxy", 11, _flag, False),
        ("rsc", 12, _flag, False),
        ("l2miss", 13, _flag, False),
        ("l3miss", 14, _flag, False),
        ("dstport", 15, _port, None),
        ("udpcsum", 18, _flag, False),
        ("udp6zerocsumtx", 19, _flag, False),
        ("udp6zerocsumrx", 20, _flag, False),
        ("gbp", 23, _present, False),
        ("external", 25, _flag, False),
    ),
    "bridge": (("stp", 5, _flag, False), ("vlan_filtering", 7, _flag, False)),
    "tun": (
        ("user", 1, _user, None),
        ("mode", 3, _kind_of_tun, None),
        ("pi", 4, _flag, False),
        ("vnet_hdr", 5, _flag, False),
        ("persist", 6, _flag, False),
        ("multi_queue", 7, _flag, False),
    ),
}


def request(index: int = 0) -> bytes:
    """The body of a RTM_GETLINK for one device, or for a dump of all."""
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0)


def brief(body: bytes) -> tuple[str, int, int, int]:
    """Name, index, MTU in bytes and the master's index (0: none)."""
    found = attributes(body, 16)
    return (
        _name(found),
        _IFINFOMSG.unpack_from(body)[2],
        _number(found.get(_IFLA_MTU, b"")),
        _number(found.get(_IFLA_MASTER, b"")),
    )


def decode(body: bytes, names: Mapping[int, str]) -> Link:
    """The device; ``kind`` is empty for hardware."""
    found = attributes(body, 16)
    info = attributes(found[_IFLA_LINKINFO], 0) if _IFLA_LINKINFO in found else {}
    kind = info.get(_INFO_KIND, b"").rstrip(b"\0").decode()
    data = attributes(info[_INFO_DATA], 0) if _INFO_DATA in info else {}
    options: dict[str, Any] = {}
    for name, number, read, default in _OPTIONS.get(kind, ()):
        if number in data:
            options[name] = read(data[number])
        else:
            options.setdefault(name, default)
    if options.get("dev"):
        options["dev"] = names.get(options["dev"])
    master = _number(found.get(_IFLA_MASTER, b""))
    return Link(
        name=_name(found),
        kind=kind,
        mtu=_number(found.get(_IFLA_MTU, b"")),
        mac=found.get(_IFLA_ADDRESS, b"").hex(":") or None,
        master=names.get(master, "") if master else "",
        up=bool(_IFINFOMSG.unpack_from(body)[3] & _IFF_UP),
        options=tuple(sorted(options.items())),
    )


def kind(body: bytes) -> str:
    """Its kind alone; empty for hardware."""
    found = attributes(body, 16)
    info = attributes(found[_IFLA_LINKINFO], 0) if _IFLA_LINKINFO in found else {}
    return info.get(_INFO_KIND, b"").rstrip(b"\0").decode()


def below(body: bytes) -> int:
    """The index of the device that it stands on, as a VLAN does; 0 if on none of this namespace."""
    found = attributes(body, 16)
    return 0 if _IFLA_LINK_NETNSID in found else _number(found.get(_IFLA_LINK, b""))


def port(body: bytes) -> Port | None:
    """What its bridge keeps of it; None if it is no bridge's port."""
    found = attributes(body, 16)
    info = attributes(found[_IFLA_LINKINFO], 0) if _IFLA_LINKINFO in found else {}
    if info.get(_INFO_SLAVE_KIND, b"").rstrip(b"\0") != b"bridge":
        return None
    data = attributes(info[_INFO_SLAVE_DATA], 0) if _INFO_SLAVE_DATA in info else {}
    return Port(_name(found), _flag(data.get(_BRPORT_NEIGH_SUPPRESS, b"\0")))


def _name(found: Mapping[int, bytes]) -> str:
    return found[_IFLA_IFNAME].rstrip(b"\0").decode()


def _user_name(number: int) -> str:
    """The name of the user with this number; the number if there is no such user."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
