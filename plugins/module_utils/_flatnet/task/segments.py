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

from ..errors import FlatnetError, InvalidInput
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
from ..kernel.plan import Change, Changes, plan
from ..overlay import segments
from ..overlay.segments import Segment, Vteps

_MIN_MTU = 68


class DeviceTaken(FlatnetError):
    """A device that the segment needs belongs to somebody else."""


class Observed(NamedTuple):
    """What there is on the host. ``held`` is all that the VXLAN device holds, ``learned`` what it
    learned from frames. ``tunnels`` are all VXLAN devices, ``ports`` those of the bridge."""

    device: Link | None
    bridge: Link | None
    held: Sequence[Entry] = ()
    learned: Sequence[Fdb] = ()
    port: Port | None = None
    tunnels: Sequence[Link] = ()
    ports: Sequence[str] = ()
    bridge_addresses: Sequence[Address] = ()


class SegmentPlan(NamedTuple):
    """``recreated`` says why the VXLAN device cannot change in place, ``kept`` why the bridge is
    not removed; both are empty otherwise."""

    changes: Changes
    recreated: tuple[str, ...] = ()
    kept: str = ""


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
    own = (segment.device, segment.bridge)
    interface = device_with("vteps", vteps.own, [each for each in addresses if each.dev not in own])
    mtu = _mtu(segment, vteps, interfaces[interface])
    bridge = _bridge(segment, observed.bridge, host_id, mtu)
    mac = segments.device_mac(host_id, segment.vni)
    wanted = [
        Port(segment.device, segment.mode == "proxy"),
        *segments.entries(segment, vteps),
    ]
    tables: list[Entry] = []
    rest: list[Entry] = []
    for entry in observed.held:
        (tables if isinstance(entry, (Neigh, Fdb)) else rest).append(entry)
    made = plan_link(
        segments.link(segment, vteps.own, interface, mac, mtu), observed.device, (), rest
    )
    first = plan([bridge], [observed.bridge] if observed.bridge else [])
    if made.recreated:
        # The kernel would drop these with the device. Written out, the inverse brings them back.
        changes = first + plan((), tables) + made.changes + plan(wanted, ())
        return SegmentPlan(changes, made.recreated)
    if not segment.learning:
        keys = {entry.key for entry in wanted}
        # What is wanted takes the place of what was learned; all else is forgotten here.
        tables += [entry for entry in observed.learned if entry.key not in keys]
    # The port of another bridge is made anew with the change of the bridge.
    stays = observed.device and observed.device.master == segment.bridge
    port = [observed.port] if observed.port and stays else []
    return SegmentPlan(first + made.changes + plan(wanted, [*port, *tables]))


def removal(segment: Segment, observed: Observed, host_id: str) -> SegmentPlan:
    """The changes that remove what was made for the segment. Raises DeviceTaken."""
    changes: list[Change] = []
    device, bridge = observed.device, observed.bridge
    if device:
        _refuse_other(segment, device, host_id, "it was not removed")
        changes += plan((), [device, *observed.held])
    kept = ""
    if bridge:
        others = [name for name in observed.ports if name != segment.device]
        if bridge.kind != "bridge" or bridge.mac != segments.bridge_mac(host_id, bridge.name):
            kept = "it was not made for the segment"
        elif others:
            kept = "it still has the ports %s" % segments.names(others)
        elif observed.bridge_addresses:
            kept = "it has the addresses %s" % segments.names(
                [each.address for each in observed.bridge_addresses]
            )
        else:
            changes += plan((), [bridge])
    return SegmentPlan(tuple(changes), kept=kept)


def _refuse_taken(segment: Segment, observed: Observed, host_id: str) -> None:
    where = "segment %s: " % segment.name
    device, bridge = observed.device, observed.bridge
    if device:
        _refuse_other(segment, device, host_id, "nothing was changed")
    if bridge and bridge.kind != "bridge":
        raise DeviceTaken(
            "%sbridge: device %s exists and is %s, not a bridge; choose another name"
            % (where, bridge.name, kind_of(bridge))
        )
    for other in observed.tunnels:
        if other.name == segment.device:
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


def _refuse_other(segment: Segment, device: Link, host_id: str, outcome: str) -> None:
    """Raise DeviceTaken if the VXLAN device was not made for a segment of this host."""
    where = "segment %s: device: " % segment.name
    if device.kind != "vxlan":
        raise DeviceTaken(
            "%s%s exists and is %s, not a VXLAN device; %s; choose another name"
            % (where, device.name, kind_of(device), outcome)
        )
    vni = device.option.get("id")
    mac = segments.device_mac(host_id, vni or 0)
    if device.mac != mac:
        raise DeviceTaken(
            "%s%s exists, with VNI %s, and was not made for a segment of this host, since its MAC "
            "address is %s and not %s; %s; choose another name, or remove the device yourself"
            % (where, device.name, vni, device.mac, mac, outcome)
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
