# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""L2 segments: one Ethernet for the containers of several hosts, stretched over VXLAN.

Pure: which segment is asked for, and which entries its VXLAN device needs on one host.

From a frame's point of view: a container's frame reaches the host's bridge. If the bridge does not
know the MAC address behind another port, the frame goes to the VXLAN device, which is a port as
well. The device's *FDB* says to which VTEP it is sent: by an entry for its MAC address, else by the
entries of the all-zero MAC address, of which each gets a copy (head-end replication). In mode proxy
the device answers ARP and neighbour solicitations from its own *neighbours* before that, and sends
none of them.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .. import checks
from ..errors import FlatnetError, InvalidInput, option
from ..fields import show
from ..identity import stable_mac
from ..kernel.entries import MAX_VNI, ZERO_MAC, Entry, Fdb, Link, Neigh

PORT = 4789
MODES = ("static", "proxy", "multicast", "flood")
# In these the kernel learns from frames where a MAC address is; else the entries say it.
LEARNING = ("multicast", "flood")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}")
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
_NAMED = 5  # how many hosts an error names


class UnknownHosts(FlatnetError):
    """What other hosts need for the segment is not known of these."""


class Member(NamedTuple):
    """Who is in the segment: a MAC address, its addresses, and the host that it is behind."""

    mac: str
    addresses: tuple[str, ...]
    host: str


class Segment(NamedTuple):
    """A segment as all its hosts have it. ``mtu`` None: it is made to fit the underlay.
    ``discover``: members are also those that hosts saw, and who is silent keeps its entry."""

    name: str
    vni: int
    device: str
    bridge: str
    port: int = PORT
    mode: str = "static"
    group: str | None = None
    replicate: bool = True
    mtu: int | None = None
    members: tuple[Member, ...] = ()
    discover: bool = False

    @property
    def learning(self) -> bool:
        return self.mode in LEARNING


class Vteps(NamedTuple):
    """The VTEP address of this host, and those of the segment's other hosts, by their names."""

    host: str
    own: str
    others: dict[str, str]


# --- what was asked for -------------------------------------------------------------------------


def parse(given: Mapping[str, Any], hosts: Iterable[str] | None = None) -> Segment:
    """The segment that a user described. ``hosts`` are all that are in it, if they are known.

    Raises InvalidInput. Two members cannot have the same MAC address or address.
    """
    name = given.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            "%s: %s does not name a segment; take up to 31 letters, digits, dots, dashes and "
            "underscores" % (option("name"), show(name))
        )
    where = "segment %s: " % name
    vni = _number(where + "vni", given.get("vni"), 1, MAX_VNI)
    if vni is None:
        raise InvalidInput("%svni: is required" % where)
    mode = given.get("mode") or "static"
    if mode not in MODES:
        raise InvalidInput("%smode: %s is none of %s" % (where, show(mode), ", ".join(MODES)))
    found = Segment(
        name,
        vni,
        _device(where + "device", given.get("device"), "vxlan%d" % vni),
        _device(where + "bridge", given.get("bridge"), "br%d" % vni),
        _number(where + "port", given.get("port"), 1, 65535) or PORT,
        mode,
        _group(where, mode, given.get("group")),
        given.get("replicate") is not False,
        _number(where + "mtu", given.get("mtu"), 68, 65535),
        _members(where, given.get("members") or ()),
    )
    if found.device == found.bridge:
        raise InvalidInput("%sdevice: %s is the bridge's name too" % (where, found.device))
    if found.device.startswith("flannel"):
        raise InvalidInput(
            "%sdevice: %s is a name for flannel's own devices; choose another one"
            % (where, found.device)
        )
    if not found.replicate and mode != "proxy":
        raise InvalidInput(
            "%sreplicate: false goes with mode proxy only; in mode %s members find each other by "
            "frames that are sent to all hosts" % (where, mode)
        )
    if mode == "proxy" and (given.get("discover") is True or given.get("discovered") is not None):
        raise InvalidInput(
            "%sdiscover: does not go with mode proxy, because nobody could reach a member that was "
            "silent when the hosts looked; list all members, or take mode static" % where
        )
    if hosts is not None:
        known = set(hosts)
        for index, member in enumerate(found.members):
            if member.host not in known:
                raise InvalidInput(
                    "%smembers[%d].host: %s is not among the hosts of the segment, which are %s"
                    % (where, index, show(member.host), names(sorted(known)))
                )
    return found


def parse_all(given: Sequence[Any]) -> list[Segment]:
    """All segments of a fleet. No two of them share a name, a device or a VNI; nor a bridge, unless
    they have no host in common."""
    found: list[tuple[Segment, set[str] | None]] = []
    for index, each in enumerate(given):
        if not isinstance(each, Mapping):
            raise InvalidInput("segment %d: %s is not a mapping" % (index + 1, show(each)))
        hosts = each.get("hosts")
        on = None if hosts is None else set(_hosts(each.get("name"), hosts))
        segment = parse(each, on)
        for other, there in found:
            for what, one, two in (
                ("name", segment.name, other.name),
                ("device", segment.device, other.device),
                ("VNI and port", (segment.vni, segment.port), (other.vni, other.port)),
            ):
                if one == two:
                    raise InvalidInput(
                        "segments %s and %s have the same %s" % (other.name, segment.name, what)
                    )
            if on is not None and there is not None and not on & there:
                continue
            if segment.bridge == other.bridge:
                raise InvalidInput(
                    "segments %s and %s have the same bridge" % (other.name, segment.name)
                )
            for first, second in ((segment, other), (other, segment)):
                if first.device == second.bridge:
                    raise InvalidInput(
                        "segment %s: device: %s is the bridge of segment %s"
                        % (first.name, first.device, second.name)
                    )
        found.append((segment, on))
    return [segment for segment, dummy in found]


def locate(segment: Segment, host: str, vteps: Mapping[str, Any]) -> Vteps:
    """The VTEP addresses of the segment's hosts. Raises UnknownHosts, InvalidInput.

    An address that is not known is empty. It is needed in every mode but multicast.
    """
    where = "segment %s: " % segment.name
    known = where + option("vteps")
    found: dict[str, str] = {}
    holders: dict[str, str] = {}
    missing = []
    for name, address in vteps.items():
        if not address:
            missing.append(name)
            continue
        text = checks.address("%s: %s" % (known, name), str(address))
        if not _unicast(text):
            raise InvalidInput("%s: %s: %s is no host's address" % (known, name, text))
        other = holders.setdefault(text, name)
        if other != name:
            raise InvalidInput(
                "%s: %s and %s have the same address, %s" % (known, other, name, text)
            )
        found[name] = text
    own = found.pop(host, None)
    if own is None:
        raise InvalidInput("%s: has no address of this host, %s" % (known, show(host)))
    if missing and segment.mode != "multicast":
        raise UnknownHosts(
            "%sthe VTEP address of %s is not known, because this run has not reached %s; nothing "
            "was changed; run it for all hosts of the segment, or set %s"
            % (
                where,
                names(missing),
                "it" if len(missing) == 1 else "them",
                option("vteps"),
            )
        )
    for name, address in found.items():
        if (":" in address) != (":" in own):
            raise InvalidInput(
                "%s: %s of %s and %s of %s are of different families"
                % (known, own, host, address, name)
            )
    if segment.mode == "multicast" and (":" in (segment.group or "")) != (":" in own):
        raise InvalidInput(
            "%sgroup: %s and the VTEP address %s are of different families"
            % (where, segment.group, own)
        )
    return Vteps(host, own, found)


# --- what the kernel should hold ----------------------------------------------------------------


def link(segment: Segment, own: str, interface: str, mac: str, mtu: int) -> Link:
    """The VXLAN device of the segment on a host with the VTEP address ``own`` on ``interface``."""
    return Link(
        segment.device,
        "vxlan",
        mtu=mtu,
        mac=mac,
        master=segment.bridge,
        options=(
            ("dev", interface),
            ("dstport", segment.port),
            ("external", False),
            ("group", segment.group if segment.mode == "multicast" else None),
            ("id", segment.vni),
            ("learning", segment.learning),
            ("local", own),
            ("proxy", segment.mode == "proxy"),
        ),
    )


def entries(segment: Segment, vteps: Vteps) -> list[Entry]:
    """All entries that the VXLAN device holds, and nothing else is in its tables."""
    device = segment.device
    found: list[Entry] = []
    if not segment.learning:
        for mac, addresses, host in segment.members:
            dst = vteps.others.get(host)
            if dst is None:  # this host's own members are behind the bridge's other ports
                continue
            if segment.mode == "proxy":
                found += [Neigh(device, address, mac) for address in addresses]
            found.append(Fdb(device, mac, dst))
    if segment.mode != "multicast" and segment.replicate:
        found += [Fdb(device, ZERO_MAC, dst) for dst in vteps.others.values()]
    return found


def device_mac(host_id: str, vni: int, name: str) -> str:
    """The MAC address of a segment's VXLAN device. Its first half tells that the device is ours,
    the other one for which segment it was made.

    With fe: it is not the lowest MAC address of a bridge's ports, which a bridge takes for its own.
    """
    return _ours(host_id, vni) + stable_mac(host_id, "segment named %s" % name)[9:]


def is_ours(host_id: str, vni: int, mac: str | None) -> bool:
    """Whether a VXLAN device was made for any segment of this host."""
    return (mac or "").startswith(_ours(host_id, vni))


def _ours(host_id: str, vni: int) -> str:
    return "fe:%s:" % stable_mac(host_id, "segment %d" % vni)[3:8]


def bridge_mac(host_id: str, name: str) -> str:
    """The MAC address of a bridge that was made for a segment; it tells the bridge to be ours."""
    return stable_mac(host_id, "segment bridge %s" % name)


def names(hosts: Sequence[str]) -> str:
    """Some hosts, for a sentence."""
    more = len(hosts) - _NAMED
    if more > 0:
        return "%s and %d more" % (", ".join(hosts[:_NAMED]), more)
    return " and ".join(filter(None, (", ".join(hosts[:-1]), hosts[-1]))) if hosts else "none"


# --- single values ------------------------------------------------------------------------------


def _number(where: str, value: Any, low: int, high: int) -> int | None:
    if value is None or value == "":
        return None
    try:
        number = int(value) if isinstance(value, (str, int)) else None
    except ValueError:
        number = None
    if number is None or isinstance(value, bool):
        raise InvalidInput("%s: %s is not a whole number" % (where, show(value)))
    return checks.number(where, number, low, high)


def _device(where: str, value: Any, default: str) -> str:
    return checks.device(where, default if value in (None, "") else str(value))


def _group(where: str, mode: str, value: Any) -> str | None:
    if value in (None, ""):
        if mode == "multicast":
            raise InvalidInput(
                "%sgroup: is required by mode multicast: the group that frames are sent to, such "
                "as 239.1.1.1" % where
            )
        return None
    group = checks.address(where + "group", str(value))
    if not _multicast(group):
        raise InvalidInput("%sgroup: %s is not a multicast address" % (where, group))
    return group


def _hosts(name: Any, value: Any) -> list[str]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise InvalidInput("segment %s: hosts: %s is not a list of names" % (name, show(value)))
    return list(value)


def _members(where: str, given: Any) -> tuple[Member, ...]:
    """All members, from a list or its JSON. There may be ten thousand, so what an error would say
    is not made up before there is one."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise InvalidInput("%smembers: %s is not JSON" % (where, show(given))) from None
    if given is None:
        return ()
    if not isinstance(given, (list, tuple)):
        raise InvalidInput("%smembers: %s is not a list" % (where, show(given)))
    found: list[Member] = []
    macs: dict[str, int] = {}
    addresses: dict[str, int] = {}
    for index, each in enumerate(given):
        member = _member(where + "members[", index, each)
        other = macs.setdefault(member.mac, index)
        if other != index:
            raise InvalidInput(
                "%smembers[%d].mac: %s of %s is also members[%d], of %s"
                % (where, index, member.mac, member.host, other, found[other].host)
            )
        for address in member.addresses:
            other = addresses.setdefault(address, index)
            if other != index:
                raise InvalidInput(
                    "%smembers[%d].addresses: %s of %s is also of members[%d], %s"
                    % (where, index, address, member.mac, other, found[other].mac)
                )
        found.append(member)
    return tuple(found)


def _member(begin: str, index: int, given: Any) -> Member:
    if not isinstance(given, Mapping):
        raise InvalidInput(
            "%s%d]: %s is not a mapping with mac, addresses and host" % (begin, index, show(given))
        )
    mac, host, texts = given.get("mac"), given.get("host"), given.get("addresses")
    mac = mac.lower().replace("-", ":") if isinstance(mac, str) else str(mac)
    if not _MAC.fullmatch(mac) or mac == ZERO_MAC:
        checks.mac("%s%d].mac" % (begin, index), mac)
    if not isinstance(host, str) or not host:
        raise InvalidInput(
            "%s%d].host: is required: the host that %s is behind" % (begin, index, mac)
        )
    if len(given) > 3 or not given.keys() <= {"mac", "host", "addresses"}:
        odd = sorted(str(each) for each in given if each not in ("mac", "host", "addresses"))
        raise InvalidInput(
            "%s%d]: has no %s; it may have mac, addresses and host" % (begin, index, ", ".join(odd))
        )
    if texts is not None and not isinstance(texts, (list, tuple)):
        raise InvalidInput("%s%d].addresses: %s is not a list" % (begin, index, show(texts)))
    addresses = []
    for text in texts or ():
        if not isinstance(text, str):
            raise InvalidInput("%s%d].addresses: %s is not text" % (begin, index, show(text)))
        address = _canonical(text)
        if address is None:
            address = checks.address("%s%d].addresses" % (begin, index), text)
        if not _unicast(address):
            raise InvalidInput(
                "%s%d].addresses: %s is no member's address" % (begin, index, address)
            )
        if address not in addresses:
            addresses.append(address)
    return Member(mac, tuple(addresses), host)


def _canonical(text: str) -> str | None:
    """The address if it is one in canonical form; None if it has to be looked at."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        found = socket.inet_ntop(family, socket.inet_pton(family, text))
    except (OSError, ValueError):
        return None
    return text if found == text and not (family == socket.AF_INET6 and "." in text) else None


def _multicast(address: str) -> bool:
    if ":" in address:
        return address.startswith("ff") and address.index(":") == 4
    return 224 <= int(address.partition(".")[0]) < 240


def _unicast(address: str) -> bool:
    if ":" in address:
        return not _multicast(address) and address not in ("::", "::1")
    first = int(address.partition(".")[0])
    return 0 < first < 224 and first != 127
