# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What on this host could stop a lease, looked for before the lease is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import option as named
from ..flannel.assignment import Decision, LeaseWouldMove
from ..flannel.config import NetworkConfig
from ..flannel.host import Host
from ..flannel.lease import Lease, gateway
from ..kernel.reader import KernelReader
from ..overlay import overlap
from ..overlay.presence import refuse_clone
from .bridge_subnet import OtherAddress, in_the_way, refuse_ports


class LeaseChecks:
    """The checks of one host; ``former`` are the addresses that its bridge has to lose."""

    def __init__(self, option: Mapping[str, Any], kernel: KernelReader, host: Host) -> None:
        self._option = option
        self._kernel = kernel
        self._host = host
        self._remembered = overlap.remembered(option["subnet_file"])
        self.former: list[str] = []

    def approve(self, decision: Decision, config: NetworkConfig) -> None:
        """Raise a FlatnetError if something on this host is in the way of the decision."""
        if not self._option["takeover"]:
            refuse_clone(decision, self._host, self._kernel.addresses())
        before, after = decision.before, decision.after
        own = [lease.subnet for lease in (before, *decision.surplus) if lease]
        own += [self._remembered] if self._remembered else []
        if before is None or before.subnet != after.subnet:
            seen = overlap.observe(self._option["etcd_endpoints"])
            overlap.check(config, seen, self._option["bridge"], own)
        if self._option["bridge"]:
            self._check_bridge(config, own, before, after)

    def _check_bridge(
        self, config: NetworkConfig, own: Sequence[str], before: Lease | None, after: Lease
    ) -> None:
        """Raise a FlatnetError if the bridge cannot get the gateway's address of the subnet."""
        name, move = self._option["bridge"], self._option["move"]
        wanted = gateway(after.subnet)
        self.former, other = in_the_way(
            self._kernel.addresses(name),
            wanted,
            [gateway(subnet) for subnet in own],
            config.network if move else None,
        )
        if self.former and before is None and not move:
            raise LeaseWouldMove(
                "%s has %s, but this host holds no lease of that subnet any more, and it is not "
                "free: %s would be leased; a move cuts off containers with addresses of the former "
                "subnet; if the host is to move, set %s"
                % (name, ", ".join(self.former), wanted, named("move"))
            )
        refuse_ports(name, self.former, lambda: self._kernel.ports(name))
        if other and (before is None or before.subnet != after.subnet):
            way_out = "; %s removes addresses of subnets that this host had before"
            raise OtherAddress(
                "bridge: %s has %s, and would get %s; before a subnet is leased, remove the former "
                "address, or name another bridge%s"
                % (name, ", ".join(other), wanted, "" if move else way_out % named("move"))
            )
