# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's part of what reaches peers: with the udp backend it is a table, not the kernel's.

The table is a file, so that the relay has it at its next start without anybody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ._relay.config import (
    CONTROL_PATH,
    TABLE_PATH,
    InvalidRelayConfig,
    RelayPeer,
    RelayTable,
    load_settings,
    load_table,
)
from ._relay.control import RelayUnavailable, ask
from .errors import FlatnetError
from .files import replace
from .flannel import Lease
from .peers import LosingAllPeers

_PATIENCE = 2.0  # seconds that the relay may take to read a table


class RelayChange(NamedTuple):
    """One subnet whose peer in the table changes; None: it is not in it."""

    before: RelayPeer | None
    after: RelayPeer | None

    def __str__(self) -> str:
        if self.before and self.after:
            return "change %s, from %s, vector %d" % (self.after, *self.before[1:])
        return "add %s" % (self.after,) if self.after else "remove %s" % (self.before,)


class Files(NamedTuple):
    """Where the table is, and how to reach the relay."""

    table: str
    control: str


def files() -> Files:
    """As tun_relay set it up; the defaults before that, as in check mode."""
    try:
        found = load_settings()
    except InvalidRelayConfig:
        return Files(TABLE_PATH, CONTROL_PATH)
    return Files(found.table_file, found.control)


def desired(
    usable: Iterable[Lease], unsure: Iterable[str], present: RelayTable, revision: int
) -> RelayTable:
    """The table for usable leases. ``unsure`` are subnets whose key has a value that nobody
    understands: what is in the table for them stays."""
    found = {
        lease.subnet: RelayPeer(lease.subnet, lease.public_ip, lease.vector) for lease in usable
    }
    kept = frozenset(unsure)
    for peer in present.peers:
        if peer.subnet in kept:
            found.setdefault(peer.subnet, peer)
    return RelayTable(tuple(sorted(found.values())), revision)


def read(path: str) -> RelayTable | None:
    """The table in the file; None if there is none that can be read."""
    try:
        return load_table(path)
    except InvalidRelayConfig:
        return None


def changes(
    before: RelayTable | None, after: RelayTable, allow_no_peers: bool = True
) -> tuple[RelayChange, ...]:
    """What differs, in the order of subnets."""
    old = {peer.subnet: peer for peer in before.peers} if before else {}
    new = {peer.subnet: peer for peer in after.peers}
    if old and not new and not allow_no_peers:
        raise LosingAllPeers(
            "etcd names no peer that this host could reach, while its relay has %d: nothing was "
            "removed; if the fleet really shrank to this host, set allow_no_peers" % len(old)
        )
    return tuple(
        RelayChange(old.get(subnet), new.get(subnet))
        for subnet in sorted(old.keys() | new.keys())
        if old.get(subnet) != new.get(subnet)
    )


def put(path: str, control: str, table: RelayTable) -> str:
    """Write the table, and have a relay that runs use it; why it does not, or nothing. Raises
    FlatnetError."""
    try:
        replace(path, table.to_json().encode(), 0o644)
    except OSError as error:
        raise FlatnetError(
            "the relay's table %s cannot be written: %s" % (path, error.strerror)
        ) from None
    return tell(control)


def tell(control: str) -> str:
    """Have a relay look at its files anew; why it does not, or nothing. One that does not run reads
    them when it starts."""
    try:
        ask(control, "reload", _PATIENCE)
    except RelayUnavailable as error:
        return str(error)
    return ""
