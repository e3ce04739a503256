# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The questions that a backend answers, and the values that they are about.

Pure. A backend is a frozen dataclass: its fields are those of ``Backend`` in the network's config
that it takes, under the names that ``fields`` says. It asks no kernel, no file and no server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from ..kernel.entries import Device, Entry, Route
from .field import Field


class LeaseData(Protocol):
    """What a lease says of how its host is reached, beside the public IP: a frozen value."""

    def to_dict(self) -> dict[str, Any]:
        """``BackendData``, with flannel's fields in flannel's order."""

    @property
    def unique(self) -> str:
        """The value by which peers tell hosts apart; empty if there is none. If two hosts have the
        same one, only one of them can be reached."""

    @property
    def options(self) -> dict[str, Any]:
        """The data for results of modules, by names as options have them."""


class Peer(Protocol):
    """A lease, as far as a backend looks at it. See flannel.lease.Lease."""

    @property
    def subnet(self) -> str: ...

    @property
    def public_ip(self) -> str: ...

    @property
    def backend_type(self) -> str: ...

    @property
    def data(self) -> LeaseData | None: ...

    @property
    def host_id(self) -> str: ...

    @property
    def vector(self) -> int: ...


class Holder(Protocol):
    """Whoever asks for a lease. See flannel.assignment.Host."""

    @property
    def host_id(self) -> str: ...

    @property
    def vtep_mac(self) -> str | None: ...


class UnderlayLink(Protocol):
    """The underlay's link. See overlay.underlay.Adjacency."""

    @property
    def interface(self) -> str:
        """The underlay's interface."""

    def away(self, lease: Peer) -> str | None:
        """Why a peer is not on the link; None if it is."""


class Relay(Protocol):
    """The settings of a relay, as far as its device follows from them. See relay.config."""

    @property
    def device(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def mtu(self) -> int: ...

    @property
    def user(self) -> str: ...


class Here(NamedTuple):
    """This host in the network: the network and its own subnet as prefixes, its lease's data, its
    underlay's interface, address and MTU in bytes. ``relay``: the settings of the relay on this
    host, None if there is none or nothing is known of it."""

    network: str
    subnet: str
    data: LeaseData | None
    interface: str
    ip: str
    mtu: int
    relay: Relay | None = None

    @property
    def first(self) -> str:
        """The subnet's first address, which is that of the backend's device."""
        return self.subnet.partition("/")[0]


class Backend(Protocol):
    """One backend, with its fields as the network's config has them. A backend need not answer a
    question that has an answer here, if that answer is right for it."""

    # --- the config -----------------------------------------------------------------------------

    type: ClassVar[str]
    """``Backend.Type``, in lower case."""

    fields: ClassVar[tuple[Field, ...]]
    """The other fields of ``Backend`` that it takes, in the order in which they are written. Fields
    of other backends are ignored, as in flannel."""

    @property
    def port(self) -> int | None:
        """The UDP port that peers send to; None if they send to none."""
        return None

    @property
    def mtu(self) -> int | None:
        """The underlay's MTU in bytes, if the config has one; None: the interface's own."""
        return None

    # --- packets --------------------------------------------------------------------------------

    carries: ClassVar[bool] = True
    """Whether the backend carries packets to peers. If not, there are only leases: no lease is a
    peer, and there is no device, entry, bridge or firewall rule."""

    overhead: ClassVar[Mapping[int, int]]
    """How many bytes it adds to a packet, over an underlay of IPv4 (4) and of IPv6 (6). A family
    that it cannot use is missing."""

    on_link: ClassVar[bool] = False
    """Whether all peers have to be on the underlay's link, reached without a gateway."""

    @property
    def untunnelled(self) -> bool:
        """Whether packets of peers' pods may come without a tunnel around them."""
        return False

    def overlay_mtu(self, underlay_mtu: int, family: int = 4) -> int:
        """MTU of pods and of the backend's device, in bytes, over an underlay of this family."""
        return (self.mtu or underlay_mtu) - self.overhead[family]

    # --- leases ---------------------------------------------------------------------------------

    lease_type: ClassVar[str]
    """``BackendType`` of leases: its type, or empty where flannel writes none."""

    lease_options: ClassVar[tuple[str, ...]] = ()
    """What ``LeaseData.options`` names."""

    def lease_data(self, holder: Holder) -> LeaseData | None:
        """What the lease of this host says; None if there is nothing to say."""
        return None

    @classmethod
    def read_lease(
        cls, data: Any, data6: Any, dual: bool
    ) -> tuple[LeaseData | None, LeaseData | None]:
        """``BackendData`` and ``BackendV6Data`` of a lease of this type, decoded JSON that anybody
        may have written; None where the lease has no such field. ``dual``: whether the lease has
        an IPv6 subnet. Raises InvalidInput, naming the field."""
        return None, None

    def misfit(self, own: Peer) -> str | None:
        """Why this host cannot use the network with its own lease ``own``; None if it can."""
        if own.backend_type == self.lease_type:
            return None
        return "this host's lease is for the backend %s, the network's is %s" % (
            _backend_of(own),
            self.type,
        )

    def refusal(self, peer: Peer, own: Peer) -> str | None:
        """Why no packets can be sent to a peer with this lease; None if they can."""
        if peer.backend_type == self.lease_type:
            return None
        return "its backend is %s, the network's is %s" % (_backend_of(peer), self.type)

    # --- this host ------------------------------------------------------------------------------

    modules: ClassVar[tuple[str, ...]]
    """The kernel modules that it needs, with the bridge's, unless they are built in."""

    relay: ClassVar[bool] = False
    """Whether the process flatnet-relay has to run. Then the peers are in its table."""

    @property
    def device(self) -> str | None:
        """The device that carries the overlay, on every host; None if there is none."""
        return None

    maker: ClassVar[str] = ""
    """The module that makes this device."""

    device_names: ClassVar[tuple[str, ...]] = ()
    """Patterns, as systemd matches names, of the devices that it can have. The system's services
    have to leave these alone."""

    fixed_macs: ClassVar[tuple[str, ...]] = ()
    """Patterns of the devices whose MAC address must not change, because peers know it."""

    def devices(self, here: Here) -> tuple[Device, ...]:
        """The devices that this host needs, as far as ``here`` says enough to make them."""
        return ()

    def network_routes(self, network: str) -> tuple[Route, ...]:
        """Routes that are there whatever peers there are. ``network`` is the whole one."""
        return ()

    def entries(self, peer: Peer, link: UnderlayLink) -> tuple[Entry, ...]:
        """What the kernel holds for a peer that can be used, in the order in which it is made:
        what a route needs comes before the route."""
        return ()


def _backend_of(lease: Peer) -> str:
    return lease.backend_type or "udp or alloc"
