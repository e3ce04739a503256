# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The alloc backend: hosts lease subnets, and subnet.env names them. It carries no packets.

It is for networks whose routers, or whose cloud, know the way to each subnet by other means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .field import MTU, Field
from .protocol import Backend


@dataclass(frozen=True)
class Alloc(Backend):
    """See protocol.Backend."""

    mtu: int | None = None

    type: ClassVar[str] = "alloc"
    # flannel has no such field with alloc. One that is there is followed.
    fields: ClassVar[tuple[Field, ...]] = (MTU._replace(offered=False),)
    carries: ClassVar[bool] = False
    overhead: ClassVar[Mapping[int, int]] = {4: 0, 6: 0}
    lease_type: ClassVar[str] = ""
    modules: ClassVar[tuple[str, ...]] = ()
