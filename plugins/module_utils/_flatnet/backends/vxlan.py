# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The vxlan backend: packets are Ethernet frames in UDP, which the kernel packs and sends.

From a packet's point of view (flannel's scheme): a pod's packet to 10.5.94.7 meets the route
``10.5.94.0/24 via 10.5.94.0 dev flannel.1 onlink``. The next hop 10.5.94.0 stands for the peer's
VTEP. Nobody would answer an ARP request for it, so a permanent *neighbour* entry has the VTEP's
MAC. With this MAC the frame reaches the VXLAN device. The device's *FDB* says to which underlay
address a frame for this MAC is sent. So a peer is three entries, and a packet passes them in the
order route, neighbour, FDB.

With ``DirectRouting`` a peer on the underlay's link is one route, as with host-gw.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..errors import InvalidInput
from ..fields import fold, is_number, show
from ..identity import vtep_mac
from ..kernel.entries import (
    MAX_VNI,
    VXLAN_OVERHEAD,
    Address,
    Device,
    Entry,
    Fdb,
    Link,
    Neigh,
    Route,
)
from .field import MTU, Field, port_field
from .protocol import Backend, Here, Holder, Peer, UnderlayLink

PORT = 8472

_LEASE_FIELDS = frozenset(("VNI", "VtepMAC"))
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class Vtep(NamedTuple):
    """A host's VTEP, as its lease has it. Old flannels wrote no VNI; then it is the network's."""

    vni: int | None
    mac: str

    def to_dict(self) -> dict[str, Any]:
        return {"VNI": self.vni, "VtepMAC": self.mac}

    @property
    def unique(self) -> str:
        return self.mac

    @property
    def options(self) -> dict[str, Any]:
        return {"vni": self.vni, "vtep_mac": self.mac}


@dataclass(frozen=True)
class Vxlan(Backend):
    """See protocol.Backend."""

    vni: int = 1
    port: int = PORT
    mtu: int | None = None
    gbp: bool = False
    learning: bool = False
    direct_routing: bool = False

    type: ClassVar[str] = "vxlan"
    fields: ClassVar[tuple[Field, ...]] = (
        Field("VNI", "vni", 1, 1, MAX_VNI, zero=False),
        port_field(PORT),
        MTU,
        Field("GBP", "gbp", False),
        Field("Learning", "learning", False),
        Field("DirectRouting", "direct_routing", False),
    )
    overhead: ClassVar[Mapping[int, int]] = VXLAN_OVERHEAD
    lease_type: ClassVar[str] = "vxlan"
    lease_options: ClassVar[tuple[str, ...]] = ("vni", "vtep_mac")
    maker: ClassVar[str] = "vxlan_vtep"
    device_names: ClassVar[tuple[str, ...]] = ("flannel*",)
    fixed_macs: ClassVar[tuple[str, ...]] = ("flannel.*",)
    modules: ClassVar[tuple[str, ...]] = ("bridge", "vxlan")

    @property
    def untunnelled(self) -> bool:
        return self.direct_routing

    @property
    def device(self) -> str:
        return "flannel.%d" % self.vni

    def lease_data(self, holder: Holder) -> Vtep:
        return Vtep(self.vni, holder.vtep_mac or vtep_mac(holder.host_id, self.vni))

    @classmethod
    def read_lease(cls, data: Any, data6: Any, dual: bool) -> tuple[Vtep, Vtep | None]:
        found = _vtep("BackendData", data)
        if not dual:
            return found, None
        found6 = _vtep("BackendV6Data", data6)
        if found6.vni != found.vni:
            raise InvalidInput("BackendV6Data.VNI differs from BackendData.VNI")
        return found, found6

    def misfit(self, own: Peer) -> str | None:
        reason = super().misfit(own)
        if reason or not isinstance(own.data, Vtep):
            return reason
        if own.data.vni not in (None, self.vni):
            return "this host's lease is for VNI %s, the network's is %s" % (
                own.data.vni,
                self.vni,
            )
        return None

    def refusal(self, peer: Peer, own: Peer) -> str | None:
        reason = super().refusal(peer, own)
        if reason or not isinstance(peer.data, Vtep):
            return reason
        if peer.data.vni not in (None, self.vni):
            return "its VNI is %s, the network's is %s" % (peer.data.vni, self.vni)
        if own.data and peer.data.mac == own.data.unique:
            return "its VTEP MAC %s is this host's too" % peer.data.mac
        return None

    def devices(self, here: Here) -> tuple[Device, ...]:
        """The VXLAN device, as flannel makes it, with the MAC that is in the lease."""
        link = Link(
            self.device,
            "vxlan",
            mtu=self.overlay_mtu(here.mtu),
            mac=here.data.unique if here.data else None,
            options=(
                ("dev", here.interface),
                ("dstport", self.port),
                ("gbp", self.gbp),
                ("id", self.vni),
                ("learning", self.learning),
                ("local", here.ip),
            ),
        )
        return (Device(link, (Address(self.device, here.first + "/32"),), exclusive=True),)

    def entries(self, peer: Peer, link: UnderlayLink) -> tuple[Entry, ...]:
        if self.direct_routing and not link.away(peer):
            return (Route(peer.subnet, link.interface, peer.public_ip),)
        if not isinstance(peer.data, Vtep):
            return ()
        device, mac = self.device, peer.data.mac
        hop = peer.subnet.partition("/")[0]
        return (
            Neigh(device, hop, mac),
            Fdb(device, mac, peer.public_ip),
            Route(peer.subnet, device, hop, onlink=True),
        )


def parse_mac(where: str, text: Any) -> str:
    """A unicast, non-zero MAC in lower case with colons; raises InvalidInput otherwise."""
    mac = text.lower().replace("-", ":") if isinstance(text, str) else ""
    if not _MAC.fullmatch(mac):
        raise InvalidInput("%s %s is not a MAC address" % (where, show(text)))
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidInput("%s %s is not a unicast MAC address" % (where, mac))
    return mac


def _vtep(where: str, data: Any) -> Vtep:
    if not isinstance(data, dict):
        raise InvalidInput("%s must be an object with VNI and VtepMAC" % where)
    fields = fold(data, _LEASE_FIELDS)
    vni = fields.get("VNI")
    if vni is not None and not (is_number(vni) and 0 < vni <= MAX_VNI):
        raise InvalidInput("%s.VNI %s is not a VNI" % (where, show(vni)))
    return Vtep(vni, parse_mac(where + ".VtepMAC", fields.get("VtepMAC")))
