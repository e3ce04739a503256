# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the udp backend answers. See relay/ for how packets get to peers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...kernel.entries import Address, Device, Link, Route
from ..field import MTU, Field, port_field
from ..protocol import Backend, Here, Peer, Relay

PORT = 8285
# IP 20 and UDP 8. The relay knows no IPv6.
OVERHEAD = {4: 28}
# The newest format of vectors that this version's relay reads: see relay/vector_format.py.
VECTOR = 1


@dataclass(frozen=True)
class Udp(Backend):
    """See protocol.Backend."""

    port: int = PORT
    mtu: int | None = None

    type: ClassVar[str] = "udp"
    fields: ClassVar[tuple[Field, ...]] = (port_field(PORT), MTU)
    overhead: ClassVar[Mapping[int, int]] = OVERHEAD
    lease_type: ClassVar[str] = ""
    maker: ClassVar[str] = "tun_relay"
    device_names: ClassVar[tuple[str, ...]] = ("flannel*",)
    modules: ClassVar[tuple[str, ...]] = ("bridge", "tun")
    relay: ClassVar[bool] = True

    @property
    def device(self) -> str:
        return "flannel0"

    def refusal(self, peer: Peer, own: Peer) -> str | None:
        """None: as in flannel, any lease will do, since packets are sent to its public IP."""
        return None

    def devices(self, here: Here) -> tuple[Device, ...]:
        """The TUN device, if the relay's settings are known: they name the user that it belongs
        to."""
        return (tun(here.relay),) if here.relay else ()

    def network_routes(self, network: str) -> tuple[Route, ...]:
        return (Route(network, self.device),)


def tun(settings: Relay) -> Device:
    """The relay's device. It stays while the relay does not run."""
    link = Link(
        settings.device,
        "tun",
        mtu=settings.mtu,
        options=(
            ("mode", "tun"),
            ("multi_queue", True),
            ("persist", True),
            ("pi", False),
            ("user", settings.user),
            ("vnet_hdr", True),
        ),
    )
    return Device(link, (Address(settings.device, settings.address + "/32"),), exclusive=True)
