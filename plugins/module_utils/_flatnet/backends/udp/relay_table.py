# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's table: with the udp backend it reaches peers, in place of the kernel's entries.

The table is a file, so the relay has it at its next start without anybody's help.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...errors import FlatnetError, LosingAllPeers, option
from ...host.files import replace
from ...relay.config import (
    CONTROL_PATH,
    TABLE_PATH,
    InvalidRelayConfig,
    RelayPeer,
    RelaySettings,
    RelayTable,
    load_settings,
    load_table,
)
from ...relay.control import RelayGone, RelayUnavailable, ask
from ..protocol import Peer

_PATIENCE = 3.0  # seconds that the relay may take to read a table and to answer


class RelayChange(NamedTuple):
    """The change of one subnet's peer in the table; None: the subnet is not in it."""

    before: RelayPeer | None
    after: RelayPeer | None

    def __str__(self) -> str:
        if self.before and self.after:
            return "change %s, from %s, vector %d" % (self.after, *self.before[1:])
        return "add %s" % (self.after,) if self.after else "remove %s" % (self.before,)


def desired(
    usable: Iterable[Peer], unreadable: Iterable[str], present: RelayTable, revision: int
) -> RelayTable:
    """The table for usable leases. ``unreadable`` are subnets whose key has a value that we cannot
    read: their lines in the ``present`` table stay."""
    found = {
        lease.subnet: RelayPeer(lease.subnet, lease.public_ip, lease.vector) for lease in usable
    }
    kept = frozenset(unreadable)
    for peer in present.peers:
        if peer.subnet in kept:
            found.setdefault(peer.subnet, peer)
    return RelayTable(tuple(sorted(found.values())), revision)


def read(path: str) -> RelayTable | None:
    """The table in the file; None if the file is missing or broken."""
    try:
        return load_table(path)
    except InvalidRelayConfig:
        return None


def changes(
    before: RelayTable | None, after: RelayTable, allow_no_peers: bool = True
) -> tuple[RelayChange, ...]:
    """What differs, in the order of subnets. Raises LosingAllPeers, unless ``allow_no_peers``."""
    old = {peer.subnet: peer for peer in before.peers} if before else {}
    new = {peer.subnet: peer for peer in after.peers}
    if old and not new and not allow_no_peers:
        raise LosingAllPeers(
            "etcd names no peer that this host could reach, but its relay has %d; nothing was "
            "removed; if this host is the last one of its fleet, set %s"
            % (len(old), option("allow_no_peers"))
        )
    return tuple(
        RelayChange(old.get(subnet), new.get(subnet))
        for subnet in sorted(old.keys() | new.keys())
        if old.get(subnet) != new.get(subnet)
    )


def write(path: str, table: RelayTable) -> None:
    """Write the table to its file. A running relay has to be told. Raises FlatnetError."""
    try:
        replace(path, table.to_json().encode(), 0o644)
    except OSError as error:
        raise FlatnetError(
            "the relay's table %s cannot be written: %s" % (path, error.strerror)
        ) from None


class Heed(NamedTuple):
    """What the relay answered. ``late``: it used something else than its files say, and was told;
    else None. ``problem``: why it still does not use what they say; else empty."""

    late: RelayUse | None
    problem: str


class RelayUse(NamedTuple):
    """What a relay uses, what it should use, and whether it has to start anew for that."""

    before: str
    after: str
    restarts: bool

    def __str__(self) -> str:
        return "have the relay use %s, instead of %s" % (self.after, self.before)


def tell(control: str) -> str:
    """Make a relay read its files anew. Returns why it does not; else an empty text. A relay that
    does not run reads them when it starts. Slow: do not call it under the host's lock."""
    try:
        ask(control, "reload", _PATIENCE)
    except RelayGone:
        pass
    except RelayUnavailable as error:
        return str(error)
    return ""


def late(control: str, table: RelayTable | None, settings: RelaySettings | None) -> RelayUse | None:
    """What a running relay uses that differs from this table and these settings; None if nothing
    does, or if it does not run. A table or settings of None are not compared. Raises
    RelayUnavailable."""
    try:
        return behind(ask(control, "summary", _PATIENCE), table, settings)
    except RelayGone:
        return None


def behind(
    found: Mapping[str, Any], table: RelayTable | None, settings: RelaySettings | None
) -> RelayUse | None:
    """As ``late``, for the summary that a relay has answered with."""
    if settings and found["settings"] != settings._asdict():
        return RelayUse("other settings", "its settings", True)
    if table and found["table"]["digest"] != table.digest:
        return RelayUse(
            "a table of revision %(revision)d with %(peers)d peers" % found["table"],
            "the table of revision %d with %d peers" % (table.revision, len(table.peers)),
            False,
        )
    return None


def heed(control: str, table: RelayTable | None, settings: RelaySettings | None = None) -> Heed:
    """Make a running relay use what its files say, if it was never told, or did not hear it. Slow:
    do not call it under the host's lock."""
    found = None
    try:
        found = late(control, table, settings)
        if found is None:
            return Heed(None, "")
        ask(control, "reload", _PATIENCE)
        # With other settings it starts anew. The next call then asks it about these.
        again = late(control, table, None)
    except RelayGone:
        return Heed(found, "")
    except RelayUnavailable as error:
        return Heed(found, str(error))
    return Heed(found, "the relay at %s still uses %s" % (control, again.before) if again else "")


class TableRun:
    """The relay's table, as one run of a module makes it. Call ``plan`` and ``write`` under the
    host's lock, and ``inform`` after it. The table's file is where the relay's settings say;
    without settings, as in check mode, it is at the default path."""

    def __init__(
        self,
        usable: Iterable[Peer],
        unreadable: Iterable[str],
        revision: int,
        allow_no_peers: bool,
    ) -> None:
        try:
            self._settings: RelaySettings | None = load_settings()
        except InvalidRelayConfig:
            self._settings = None
        self._usable, self._unreadable, self._revision = usable, unreadable, revision
        self._allowed = allow_no_peers
        self._before: RelayTable | None = None
        self._after: RelayTable | None = None

    @property
    def _path(self) -> str:
        return self._settings.table_file if self._settings else TABLE_PATH

    @property
    def revision(self) -> int:
        """The revision of the table that is there now; 0 if there is none."""
        found = read(self._path)
        return found.revision if found else 0

    def plan(self) -> tuple[RelayChange, ...]:
        """What is to change."""
        self._before = read(self._path)
        after = desired(
            self._usable, self._unreadable, self._before or RelayTable(), self._revision
        )
        found = changes(self._before, after, self._allowed)
        # etcd has another history. With its higher revision, the table would look newer for ever.
        lower = 0 < self._revision < (self._before.revision if self._before else 0)
        self._after = after if found or lower else None
        return found

    def write(self) -> None:
        """Make what was planned."""
        if self._after:
            write(self._path, self._after)

    def inform(self, check_mode: bool) -> Heed:
        """Make a running relay use what its file says, whoever wrote it. In check mode, only say
        whether it does."""
        control = self._settings.control if self._settings else CONTROL_PATH
        if not check_mode:
            if self._after:
                return Heed(None, tell(control))
            return heed(control, self._before, self._settings)
        if self._after:
            return Heed(None, "")
        try:
            return Heed(late(control, self._before, self._settings), "")
        except RelayUnavailable as error:
            return Heed(None, str(error))
