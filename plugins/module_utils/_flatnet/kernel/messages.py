# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses, neighbours, FDB entries and routes as rtnetlink messages, and back.

Pure: entries in, bytes out, and the reverse. ``index`` maps device names to interface indexes,
``names`` the other way round.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Collection, Mapping
from typing import Callable, Union

from . import netlink
from .entries import Address, Fdb, Neigh, Port, Route
from .netlink import APPEND, CREATE, EXCL, REPLACE, Message, attribute, attributes

_NDMSG = struct.Struct("=BxxxiHBB")  # family, ifindex, state, flags, type
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, proto, scope, type
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefixlen, flags, scope, index
_U32 = struct.Struct("=I")
_BE16 = struct.Struct("!H")

_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change

_NUD_PERMANENT = 0x80
_NTF_SELF = 0x02
_NDA_DST, _NDA_LLADDR, _NDA_PORT, _NDA_VNI, _NDA_IFINDEX, _NDA_SRC_VNI = 1, 2, 6, 7, 8, 11
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 5, 6, 7
_RTA_METRICS, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 8, 9, 15, 18
_RTAX_MTU = 2
_RTNH_F_ONLINK, _RTN_UNICAST, _RTM_F_CLONED = 4, 1, 0x200
_RTM_F_FIB_MATCH = 0x2000
# What stands for the device of a route that has none.
_ROUTE_KINDS = {
    _RTN_UNICAST: "",
    6: "(blackhole)",
    7: "(unreachable)",
    8: "(prohibit)",
    9: "(throw)",
}
_LOCAL_TABLE = 255
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x02
_IPV6_DEFAULT_METRIC = 1024

_IFLA_PROTINFO = 12
_IFLA_BRPORT_NEIGH_SUPPRESS = 32
_NLA_F_NESTED = 0x8000
# What a bridge or a neighbour table knows and uses: NUD_REACHABLE, STALE, DELAY, PROBE, NOARP.
_NUD_KNOWN = _NUD_PERMANENT | 0x02 | 0x04 | 0x08 | 0x10 | 0x40
_NDA_MASTER = 9

Batchable = Union[Port, Address, Neigh, Fdb, Route]


def _pack(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _unpack(data: bytes) -> str:
    if len(data) == 4:
        return socket.inet_ntop(socket.AF_INET, data)
    text = socket.inet_ntop(socket.AF_INET6, data)
    # C writes ::ffff:192.0.2.1 where ipaddress has another form, which is the canonical one here.
    return str(ipaddress.IPv6Address(data)) if "." in text else text


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def encode(
    before: Batchable | None, after: Batchable | None, index: Mapping[str, int]
) -> list[Message]:
    """The requests that take an object from ``before`` to ``after``; KeyError names a device
    that is not there."""
    if isinstance(before, Address) and after:
        # The prefix length of an IPv6 address: the kernel acknowledges a replace and keeps the old.
        return encode(before, None, index) + encode(None, after, index)
    entry = before if after is None else after
    body = _ENCODERS[type(entry)](entry, index, after is None)
    new, delete = _TYPES[type(entry)]
    return [Message(new, _flags(before, after), body) if after else Message(delete, 0, body)]


def _flags(before: Batchable | None, after: Batchable) -> int:
    if isinstance(after, Port):
        return 0
    if isinstance(after, Route) and before is None:
        # A route that somebody else added since we looked is theirs.
        return CREATE | EXCL
    if isinstance(after, Fdb) and after.many:
        # Only lists of destinations may be appended to; an append to a unicast MAC succeeds and
        # changes nothing, a replace of a list is refused (vxlan_fdb_update in drivers/net/vxlan).
        return CREATE | APPEND
    # Also where nothing of ours was: what the kernel learned by itself gives way.
    return CREATE | REPLACE


def _encode_neigh(entry: Neigh, index: Mapping[str, int], remove: bool) -> bytes:
    body = _NDMSG.pack(_family(entry.address), index[entry.dev], _NUD_PERMANENT, 0, 0)
    body += attribute(_NDA_DST, _pack(entry.address))
    if not remove:
        body += attribute(_NDA_LLADDR, bytes.fromhex(entry.mac.replace(":", "")))
    return body


def _encode_fdb(entry: Fdb, index: Mapping[str, int], remove: bool) -> bytes:
    body = _NDMSG.pack(socket.AF_BRIDGE, index[entry.dev], _NUD_PERMANENT, _NTF_SELF, 0)
    body += attribute(_NDA_LLADDR, bytes.fromhex(entry.mac.replace(":", "")))
    if entry.src_vni is not None:
        body += attribute(_NDA_SRC_VNI, _U32.pack(entry.src_vni))
    if remove and not entry.many:
        # There is one destination, and the kernel would not find one whose ``via`` is gone.
        return body
    body += attribute(_NDA_DST, _pack(entry.dst))
    if entry.port is not None:
        body += attribute(_NDA_PORT, _BE16.pack(entry.port))
    if entry.vni is not None:
        body += attribute(_NDA_VNI, _U32.pack(entry.vni))
    if entry.via is not None:
        number = int(entry.via) if entry.via.isdigit() else index[entry.via]
        body += attribute(_NDA_IFINDEX, _U32.pack(number))
    return body


def _encode_route(entry: Route, index: Mapping[str, int], remove: bool) -> bytes:
    prefix, length = entry.dst.split("/")
    if remove:
        scope = _SCOPE_NOWHERE  # any
    else:
        scope = _SCOPE_UNIVERSE if entry.gateway or ":" in prefix else _SCOPE_LINK
    body = _RTMSG.pack(
        _family(prefix),
        int(length),
        0,
        0,
        entry.table if entry.table < 256 else 0,
        entry.protocol,
        scope,
        _RTN_UNICAST,
        _RTNH_F_ONLINK if entry.onlink else 0,
    )
    body += attribute(_RTA_TABLE, _U32.pack(entry.table))
    body += attribute(_RTA_DST, _pack(prefix))
    body += attribute(_RTA_OIF, _U32.pack(index[entry.dev]))
    if entry.gateway:
        if ":" in entry.gateway and ":" not in prefix:
            family = struct.pack("=H", socket.AF_INET6)
            body += attribute(_RTA_VIA, family + _pack(entry.gateway))
        else:
            body += attribute(_RTA_GATEWAY, _pack(entry.gateway))
    # Without a metric, a removal would take whichever route comes first.
    metric = entry.metric or (_IPV6_DEFAULT_METRIC if ":" in prefix else 0)
    if metric:
        body += attribute(_RTA_PRIORITY, _U32.pack(metric))
    if remove:
        return body
    if entry.src:
        body += attribute(_RTA_PREFSRC, _pack(entry.src))
    if entry.mtu:
        body += attribute(_RTA_METRICS, attribute(_RTAX_MTU, _U32.pack(entry.mtu)))
    return body


def _encode_address(entry: Address, index: Mapping[str, int], _remove: bool) -> bytes:
    address, length = entry.address.split("/")
    family = _family(address)
    # No duplicate address detection: these addresses are ours by lease, and a tentative
    # gateway would not answer for a second.
    flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
    body = _IFADDRMSG.pack(family, int(length), flags, 0, index[entry.dev])
    packed = _pack(address)
    return body + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)


def _encode_port(entry: Port, index: Mapping[str, int], remove: bool) -> bytes:
    """Removed is the port's own flag only, which is off by default."""
    flag = bytes([entry.neigh_suppress and not remove])
    body = _IFINFOMSG.pack(socket.AF_BRIDGE, 0, index[entry.dev], 0, 0)
    return body + attribute(
        _IFLA_PROTINFO | _NLA_F_NESTED, attribute(_IFLA_BRPORT_NEIGH_SUPPRESS, flag)
    )


_ENCODERS: dict[type, Callable[..., bytes]] = {
    Port: _encode_port,
    Neigh: _encode_neigh,
    Fdb: _encode_fdb,
    Route: _encode_route,
    Address: _encode_address,
}
_TYPES = {
    Port: (netlink.RTM_SETLINK, netlink.RTM_SETLINK),
    Neigh: (netlink.RTM_NEWNEIGH, netlink.RTM_DELNEIGH),
    Fdb: (netlink.RTM_NEWNEIGH, netlink.RTM_DELNEIGH),
    Route: (netlink.RTM_NEWROUTE, netlink.RTM_DELROUTE),
    Address: (netlink.RTM_NEWADDR, netlink.RTM_DELADDR),
}

# --- dumps --------------------------------------------------------------------------------------


def neigh_request(family: int, index: int) -> bytes:
    return _NDMSG.pack(family, 0, 0, 0, 0) + attribute(_NDA_IFINDEX, _U32.pack(index))


def fdb_request(index: int) -> bytes:
    return _NDMSG.pack(socket.AF_BRIDGE, index, 0, 0, 0)


def bridge_request(index: int) -> bytes:
    """The MAC addresses that a bridge knows."""
    return _NDMSG.pack(socket.AF_BRIDGE, 0, 0, 0, 0) + attribute(_NDA_MASTER, _U32.pack(index))


def route_request(family: int, table: int) -> bytes:
    return _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_TABLE, _U32.pack(table))


def way_request(address: str) -> bytes:
    """Which route, as it is in its table, an IPv4 address is reached by."""
    family = socket.AF_INET
    head = _RTMSG.pack(family, 32, 0, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH)
    return head + attribute(_RTA_DST, socket.inet_pton(family, address))


def address_request(family: int) -> bytes:
    return _IFADDRMSG.pack(family, 0, 0, 0, 0)


def decode_neigh(body: bytes, dev: str, index: int) -> Neigh | None:
    """A permanent entry of the device; None for what the kernel learned or made by itself."""
    dummy, ifindex, state, dummy, dummy = _NDMSG.unpack_from(body)
    if ifindex != index or not state & _NUD_PERMANENT:
        return None
    found = attributes(body, 12)
    if _NDA_DST not in found or len(found.get(_NDA_LLADDR, b"")) != 6:
        return None
    return Neigh(dev, _unpack(found[_NDA_DST]), found[_NDA_LLADDR].hex(":"))


def decode_known_neigh(body: bytes, dev: str, index: int) -> Neigh | None:
    """A neighbour that answered or was told; None for what only was asked for."""
    dummy, ifindex, state, dummy, dummy = _NDMSG.unpack_from(body)
    found = attributes(body, 12)
    if ifindex != index or not state & _NUD_KNOWN:
        return None
    if _NDA_DST not in found or len(found.get(_NDA_LLADDR, b"")) != 6:
        return None
    return Neigh(dev, _unpack(found[_NDA_DST]), found[_NDA_LLADDR].hex(":"))


def decode_bridge_fdb(body: bytes, index: int) -> tuple[int, str] | None:
    """A MAC address that a bridge has learned or was told, with the number of its port. The
    addresses of the ports themselves, which are permanent, are left out."""
    dummy, port, state, flags, dummy = _NDMSG.unpack_from(body)
    found = attributes(body, 12)
    if state & _NUD_PERMANENT or not state & _NUD_KNOWN or flags & _NTF_SELF:
        return None
    if found.get(_NDA_MASTER) != _U32.pack(index) or len(found.get(_NDA_LLADDR, b"")) != 6:
        return None
    return port, found[_NDA_LLADDR].hex(":")


def decode_fdb(
    body: bytes, dev: str, index: int, names: Mapping[int, str], learned: bool = False
) -> Fdb | None:
    """A permanent entry that the VXLAN device itself holds (a bridge's copies are not self).
    ``learned``: one that it learned from a frame, instead."""
    dummy, ifindex, state, flags, dummy = _NDMSG.unpack_from(body)
    permanent = bool(state & _NUD_PERMANENT)
    if ifindex != index or permanent == learned or not flags & _NTF_SELF:
        return None
    found = attributes(body, 12)
    if _NDA_DST not in found or _NDA_LLADDR not in found:
        return None
    port, vni = found.get(_NDA_PORT), found.get(_NDA_VNI)
    via, src_vni = found.get(_NDA_IFINDEX), found.get(_NDA_SRC_VNI)
    return Fdb(
        dev,
        found[_NDA_LLADDR].hex(":"),
        _unpack(found[_NDA_DST]),
        _BE16.unpack(port)[0] if port else None,
        _U32.unpack(vni)[0] if vni else None,
        _via(_U32.unpack(via)[0], names) if via else None,
        _U32.unpack(src_vni)[0] if src_vni else None,
    )


def _via(number: int, names: Mapping[int, str]) -> str:
    """The device's name; of one that is gone, whose entry stays, the number."""
    return names.get(number, str(number))


def route_protocol(body: bytes) -> int:
    """Whose route it is, without a look at the rest."""
    return body[5]


def decode_route(body: bytes, table: int | None, names: Mapping[int, str]) -> Route | None:
    """A route of ``table``; None: of all but the kernel's own, ``local``."""
    family, length, dummy, tos, low, protocol, dummy, kind, flags = _RTMSG.unpack_from(body)
    if kind not in _ROUTE_KINDS or flags & _RTM_F_CLONED or tos:
        return None
    found = attributes(body, 12)
    number = _U32.unpack(found[_RTA_TABLE])[0] if _RTA_TABLE in found else low
    if number in (0, _LOCAL_TABLE) if table is None else number != table:
        return None
    size = 4 if family == socket.AF_INET else 16
    dst = _unpack(found.get(_RTA_DST, bytes(size)))
    oif, gateway, via = found.get(_RTA_OIF), found.get(_RTA_GATEWAY), found.get(_RTA_VIA)
    if via:
        gateway = via[2:]
    device = _ROUTE_KINDS[kind]
    if not device:
        device = names.get(_U32.unpack(oif)[0], "(gone)") if oif else "(several next hops)"
    src, priority = found.get(_RTA_PREFSRC), found.get(_RTA_PRIORITY)
    metric = _U32.unpack(priority)[0] if priority else 0
    if family == socket.AF_INET6 and metric == _IPV6_DEFAULT_METRIC:
        metric = 0
    mtu = attributes(found[_RTA_METRICS], 0).get(_RTAX_MTU) if _RTA_METRICS in found else None
    return Route(
        "%s/%d" % (dst, length),
        device,
        _unpack(gateway) if gateway else None,
        bool(flags & _RTNH_F_ONLINK),
        _U32.unpack(mtu)[0] if mtu else None,
        _unpack(src) if src else None,
        metric,
        number,
        protocol,
    )


def decode_address(body: bytes, names: Mapping[int, str]) -> Address | None:
    """An address of global scope; link-local and host addresses are the kernel's own affair."""
    dummy, length, dummy, scope, index = _IFADDRMSG.unpack_from(body)
    if scope >= _SCOPE_LINK or index not in names:
        return None
    found = attributes(body, 8)
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    return Address(names[index], "%s/%d" % (_unpack(packed), length)) if packed else None


# --- notifications ------------------------------------------------------------------------------


def link_index(body: bytes) -> int:
    """The interface index of an ifinfomsg."""
    index: int = struct.unpack_from("=BxHi", body)[2]
    return index


def decode_neighbour_event(
    body: bytes, names: Mapping[int, str], devices: Collection[str]
) -> Neigh | Fdb | None:
    """The neighbour or FDB entry of one of ``devices`` that a notification is about.

    Unlike in a dump its state may be any: an entry that is being removed is no longer permanent,
    and one that somebody made dynamic is no longer as we want it, which ``mac`` "" stands for.
    """
    family, index, state, dummy, dummy = _NDMSG.unpack_from(body)
    dev = names.get(index)
    if dev is None or dev not in devices:
        return None
    if family == socket.AF_BRIDGE:
        return decode_fdb(body, dev, index, names)
    found = attributes(body, 12)
    if _NDA_DST not in found:
        return None
    mac = found.get(_NDA_LLADDR, b"").hex(":") if state & _NUD_PERMANENT else ""
    return Neigh(dev, _unpack(found[_NDA_DST]), mac)
