# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to change on a host so that it has a segment, or has it no more.

Pure. What is ours is told by its MAC address, which is made from the host's identity: see
overlay/segments.py. Devices of others are never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import FlatnetError, InvalidInput, option
from ..kernel.entries import (
    VXLAN_OVERHEAD,
    Address,
    Entry,
    Fdb,
    Interface,
    Link,
    Neigh,
    Port,
)
from ..kernel.links import device_with, kind_of, plan_link
from ..kernel.plan import Changes, plan
from ..overlay import segments
from ..overlay.discovered import LIMIT
from ..overlay.segments import Segment, Vteps

_MIN_MTU = 68


class DeviceTaken(FlatnetError):
    """A device that the segment needs belongs to somebody else."""


class Observed(NamedTuple):
    """What there is on the host. ``held`` is all that the VXLAN device holds, ``learned`` what it
    learned from frames. ``tunnels`` are all VXLAN devices, ``ports`` those of the bridge. ``above``
    and ``bridge_above`` are devices that stand on the device and on the bridge, as VLANs do.

    ``former`` is what the segment had before under other names: each a device or none, and the
    bridge that it was on.
    """

    device: Link | None
    bridge: Link | None
    held: Sequence[Entry] = ()
    learned: Sequence[Fdb] = ()
    port: Port | None = None
    tunnels: Sequence[Link] = ()
    ports: Sequence[str] = ()
    bridge_addresses: Sequence[Address] = ()
    above: Sequence[str] = ()
    bridge_above: Sequence[str] = ()
    former: Sequence[Observed] = ()


class SegmentPlan(NamedTuple):
    """``recreated`` says why the VXLAN device cannot change in place, ``kept`` what is not removed
    and why; both are empty otherwise."""

    changes: Changes
    recreated: tuple[str, ...] = ()
    kept: str = ""
    warnings: tuple[str, ...] = ()


def former(segment: Segment, tunnels: Iterable[Link], host_id: str) -> list[Link]:
    """VXLAN devices of this host that were made for the segment under another name, or that have
    its VNI and port."""
    wanted = (segment.vni, segment.port)
    return [
        each
        for each in tunnels
        if each.name != segment.device
        and _ours(each, host_id)
        and (
            _made_for(segment, each, host_id)
            or (each.option.get("id"), each.option.get("dstport")) == wanted
        )
    ]


def left(names: Iterable[str], tunnels: Iterable[Link], host_id: str) -> list[Link]:
    """VXLAN devices that were made for segments of this host with other names than these."""
    names = list(names)

    def known(device: Link) -> bool:
        vni = device.option.get("id") or 0
        return device.mac in [segments.device_mac(host_id, vni, name) for name in names]

    return [each for each in tunnels if _ours(each, host_id) and not known(each)]


def change(
    segment: Segment,
    vteps: Vteps,
    observed: Observed,
    host_id: str,
    interfaces: Mapping[str, Interface],
    addresses: Iterable[Address],
) -> SegmentPlan:
    """The changes that make the segment as it should be. Raises DeviceTaken, InvalidInput."""
    _refuse_taken(segment, observed, host_id)
    addresses = list(addresses)
    own = (segment.device, segment.bridge)
    interface = device_with("vteps", vteps.own, [each for each in addresses if each.dev not in own])
    _refuse_own(vteps, addresses)
    mtu = _mtu(segment, vteps, interfaces[interface])
    bridge = _bridge(segment, observed.bridge, host_id, mtu)
    mac = segments.device_mac(host_id, segment.vni, segment.name)
    wanted = [
        Port(segment.device, segment.mode == "proxy"),
        *segments.entries(segment, vteps),
        *_silent(segment, vteps, observed),
    ]
    tables: list[Entry] = []
    rest: list[Entry] = []
    for entry in observed.held:
        (tables if isinstance(entry, (Neigh, Fdb)) else rest).append(entry)
    made = plan_link(
        segments.link(segment, vteps.own, interface, mac, mtu), observed.device, (), rest
    )
    warnings: tuple[str, ...] = ()
    if observed.bridge and (bridge.mtu or 0) > mtu:
        warnings = (
            "segment %s: bridge %s has MTU %d, and the segment carries %d; the kernel lowers it as "
            "the VXLAN device joins, unless somebody has set it; larger frames are lost"
            % (segment.name, bridge.name, bridge.mtu or 0, mtu),
        )
    first: Changes = ()
    last: Changes = ()
    kept = []
    for each in observed.former:
        if each.device:
            _refuse_stood_on(segment, each, "nothing was changed")
            first += _without(each)
        if each.bridge and _made_bridge(each.bridge, host_id):
            reason = _in_use(each, {segment.device, *(one.name for one in _devices(observed))})
            if reason:
                kept.append(reason)
            elif each.bridge not in [one.before for one in last]:
                last += plan((), [each.bridge])
    first += plan([bridge], [observed.bridge] if observed.bridge else [])
    port = [observed.port] if observed.port else []
    if made.recreated:
        _refuse_stood_on(segment, observed, "nothing was changed")
        # The kernel would drop these with the device. Written out, the inverse brings them back.
        changes = plan((), [*port, *tables]) + made.changes + plan(wanted, ())
    else:
        if not segment.learning:
            keys = {entry.key for entry in wanted}
            # What is wanted takes the place of what was learned; all else is forgotten here.
            tables += [entry for entry in observed.learned if entry.key not in keys]
        # The port of another bridge is made anew with the change of the bridge.
        stays = observed.device and observed.device.master == segment.bridge
        lost: list[Entry] = [] if stays else [*port]
        tables += port if stays else []
        if observed.device and observed.device.mac != mac:
            # The kernel drops the neighbours with the former MAC address.
            lost += [entry for entry in tables if isinstance(entry, Neigh)]
        rest = [entry for entry in tables if entry not in lost]
        changes = plan((), lost) + made.changes + plan(wanted, rest)
    return SegmentPlan(first + changes + last, made.recreated, "; ".join(kept), warnings)


def removal(segment: Segment, observed: Observed, host_id: str) -> SegmentPlan:
    """The changes that remove what was made for the segment. Raises DeviceTaken."""
    changes: Changes = ()
    kept = []
    going = set()
    for each in (observed, *observed.former):
        device = each.device
        if device is None:
            continue
        named = each is observed and device.option.get("id") == segment.vni
        if _ours(device, host_id) and (named or _made_for(segment, device, host_id)):
            _refuse_stood_on(segment, each, "nothing was removed")
            going.add(device.name)
            changes += _without(each)
        elif each is observed:
            kept.append("device %s was not made for the segment" % device.name)
    for each in (observed, *observed.former):
        name = each.device.name if each.device else segment.device
        if each.bridge is None or (each is not observed and name not in going):
            continue
        if not _made_bridge(each.bridge, host_id):
            if each is observed:
                kept.append("bridge %s was not made for the segment" % each.bridge.name)
            continue
        reason = _in_use(each, going)
        if reason:
            kept.append(reason)
        elif each.bridge not in [one.before for one in changes]:
            changes += plan((), [each.bridge])
    return SegmentPlan(changes, kept="; ".join(dict.fromkeys(kept)))


def _ours(device: Link, host_id: str) -> bool:
    """Whether a device is a VXLAN device that was made for a segment of this host."""
    vni = device.option.get("id") or 0
    return device.kind == "vxlan" and segments.is_ours(host_id, vni, device.mac)


def _made_for(segment: Segment, device: Link, host_id: str) -> bool:
    vni = device.option.get("id") or 0
    return device.mac == segments.device_mac(host_id, vni, segment.name)


def _made_bridge(bridge: Link, host_id: str) -> bool:
    return bridge.kind == "bridge" and bridge.mac == segments.bridge_mac(host_id, bridge.name)


def _devices(observed: Observed) -> list[Link]:
    return [each.device for each in observed.former if each.device]


def _without(observed: Observed) -> Changes:
    """The device goes with all it has. Its port is written out, so that the inverse sets it up."""
    port = [observed.port] if observed.port else []
    device = [observed.device] if observed.device else []
    return plan((), [*device, *port, *observed.held])


def _in_use(observed: Observed, going: set[str]) -> str:
    """Why a bridge of ours is kept, if these devices go; empty if nobody uses it."""
    bridge = observed.bridge
    others = [name for name in observed.ports if name not in going]
    above = [name for name in observed.bridge_above if name not in going]
    addresses = [each.address for each in observed.bridge_addresses]
    if bridge is None:
        return ""
    if others:
        return "bridge %s still has the ports %s" % (bridge.name, segments.names(others))
    if addresses:
        return "bridge %s has the addresses %s" % (bridge.name, segments.names(addresses))
    if bridge.master:
        return "bridge %s belongs to %s" % (bridge.name, bridge.master)
    if above:
        return "bridge %s has %s on top" % (bridge.name, segments.names(above))
    return ""


def _silent(segment: Segment, vteps: Vteps, observed: Observed) -> list[Fdb]:
    """Entries of members that were seen before, and that nobody sees now."""
    device = observed.device
    if not segment.discover or device is None or device.option.get("id") != segment.vni:
        return []
    seen = {member.mac for member in segment.members}
    left = dict.fromkeys(vteps.others.values(), LIMIT)
    found = []
    for entry in sorted(each for each in observed.held if isinstance(each, Fdb) and not each.many):
        plain = entry == Fdb(segment.device, entry.mac, entry.dst)
        if plain and entry.mac not in seen and left.get(entry.dst):
            left[entry.dst] -= 1
            found.append(entry)
    return found


def _refuse_own(vteps: Vteps, addresses: Iterable[Address]) -> None:
    here = {each.address.partition("/")[0] for each in addresses}
    for host, address in vteps.others.items():
        if address in here:
            raise InvalidInput(
                "%s: %s of %s is an address of this host, %s"
                % (option("vteps"), address, host, vteps.host)
            )


def _refuse_stood_on(segment: Segment, observed: Observed, outcome: str) -> None:
    if observed.above and observed.device:
        raise DeviceTaken(
            "segment %s: device: %s would be removed, and %s with it, which stands on it; %s; "
            "remove that first"
            % (segment.name, observed.device.name, segments.names(observed.above), outcome)
        )


def _refuse_taken(segment: Segment, observed: Observed, host_id: str) -> None:
    where = "segment %s: " % segment.name
    device, bridge = observed.device, observed.bridge
    if device:
        _refuse_other(segment, device, host_id)
    if bridge and bridge.kind != "bridge":
        raise DeviceTaken(
            "%sbridge: device %s exists and is %s, not a bridge; choose another name"
            % (where, bridge.name, kind_of(bridge))
        )
    if bridge and bridge.option.get("vlan_filtering"):
        raise DeviceTaken(
            "%sbridge: %s has vlan_filtering on, and a segment has no VLANs; nothing was changed; "
            "switch it off, or choose another bridge" % (where, bridge.name)
        )
    own = {segment.device, *(each.name for each in _devices(observed))}
    for other in observed.tunnels:
        if other.name in own:
            continue
        if (other.option.get("id"), other.option.get("dstport")) == (segment.vni, segment.port):
            raise DeviceTaken(
                "%svni: device %s has VNI %d and port %d already, and the kernel allows one; "
                "remove it, or choose another VNI or port"
                % (where, other.name, segment.vni, segment.port)
            )
        if bridge and other.master == bridge.name:
            raise DeviceTaken(
                "%sbridge: %s has the VXLAN device %s as a port already, so two networks would "
                "become one; choose another bridge, or remove that device"
                % (where, bridge.name, other.name)
            )


def _refuse_other(segment: Segment, device: Link, host_id: str) -> None:
    """Raise DeviceTaken if the VXLAN device was not made for a segment of this host."""
    where = "segment %s: device: " % segment.name
    if device.kind != "vxlan":
        raise DeviceTaken(
            "%s%s exists and is %s, not a VXLAN device; nothing was changed; choose another name"
            % (where, device.name, kind_of(device))
        )
    if not _ours(device, host_id):
        raise DeviceTaken(
            "%s%s exists, with VNI %s, and was not made for a segment of this host, as its MAC "
            "address %s says; nothing was changed; choose another name, or remove the device "
            "yourself" % (where, device.name, device.option.get("id"), device.mac)
        )


def _bridge(segment: Segment, observed: Link | None, host_id: str, mtu: int) -> Link:
    """The bridge as it should be. One that somebody else has made is only set up."""
    mac = segments.bridge_mac(host_id, segment.bridge)
    if observed is None:
        return Link(segment.bridge, "bridge", mtu=mtu, mac=mac)
    ours = observed.mac == mac
    return observed._replace(up=True, mtu=mtu if ours else observed.mtu)


def _mtu(segment: Segment, vteps: Vteps, lower: Interface) -> int:
    takes = VXLAN_OVERHEAD[6 if ":" in vteps.own else 4]
    fits = lower.mtu - takes
    mtu = fits if segment.mtu is None else segment.mtu
    if lower.name == "lo" and segment.mtu is None:
        raise InvalidInput(
            "segment %s: mtu: is required, since %s is on lo, whose MTU says nothing of the "
            "underlay's" % (segment.name, vteps.own)
        )
    if not _MIN_MTU <= mtu <= fits:
        raise InvalidInput(
            "segment %s: mtu: %d is not possible: packets leave by %s, whose MTU is %d, and VXLAN "
            "takes %d" % (segment.name, mtu, lower.name, lower.mtu, takes)
        )
    return mtu
