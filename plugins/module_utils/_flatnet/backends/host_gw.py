# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host-gw backend: a peer's underlay address is itself the next hop, and one route is all.

That is only true if the peer is on the underlay's own link: a gateway in between knows nothing of
our subnets and would drop or, worse, misroute the packet.
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
        """The peer is taken to be on the link."""
        return (Route(peer.subnet, link.interface, peer.public_ip),)
