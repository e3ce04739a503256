# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host-gw backend: a peer is one route, and its underlay address is the next hop.

The peer has to be on the underlay's own link. A gateway in between does not know our subnets, so it
would drop packets, or send them to a wrong place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..kernel.entries import Entry, Route
from .field import MTU, Field
from .protocol import Backend, Peer, UnderlayLink


@dataclass(frozen=True)
class HostGw(Backend):
    """See protocol.Backend."""

    mtu: int | None = None

    type: ClassVar[str] = "host-gw"
    # flannel has no such field with host-gw. One that is there is followed.
    fields: ClassVar[tuple[Field, ...]] = (MTU._replace(offered=False),)
    overhead: ClassVar[Mapping[int, int]] = {4: 0, 6: 0}
    on_link: ClassVar[bool] = True
    lease_type: ClassVar[str] = "host-gw"
    modules: ClassVar[tuple[str, ...]] = ("bridge",)

    @property
    def untunnelled(self) -> bool:
        return True

    def entries(self, peer: Peer, link: UnderlayLink) -> tuple[Entry, ...]:
        """The route to the peer. Whether it is on the link is not checked here."""
        return (Route(peer.subnet, link.interface, peer.public_ip),)
