# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's files, for the agent: kept as they should be while leases and the host change.

``tun_relay`` writes the settings first, and whatever no lease tells of stays as it wrote that: a
run of the playbook may change it at any time, and is not to be overruled.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import FlatnetError
from ...host import files
from ...relay.config import (
    SETTINGS_PATH,
    VECTOR,
    InvalidRelayConfig,
    RelaySettings,
    RelayTable,
    load_settings,
)
from ..protocol import Backend, Here, Peer
from . import relay_table
from .relay_table import Heed


class RelayKeeper:
    """One host's relay; of none, with another backend, ``settings`` is None."""

    def __init__(self, path: str = SETTINGS_PATH) -> None:
        self._path = path
        self.settings: RelaySettings | None = None
        self._table: RelayTable | None = None
        self._untold = False

    def learn(self, backend: Backend, here: Here) -> None:
        """See what the settings should be. Those known until now do for a file that was damaged
        since; with none known raises InvalidRelayConfig."""
        if not backend.relay or not backend.device:
            self.settings = None
            return
        try:
            found = load_settings(self._path)
        except InvalidRelayConfig:
            if self.settings is None:
                raise
            found = self.settings
        self.settings = found._replace(
            device=backend.device,
            address=here.first,
            subnet=here.subnet,
            network=here.network,
            listen=here.ip,
            port=backend.port or 0,
            mtu=backend.overlay_mtu(here.mtu),
        )

    def keep(
        self, usable: Iterable[Peer], unreadable: Iterable[str], revision: int
    ) -> tuple[object, ...]:
        """Compare both files with what they should be, and put right what differs; what did. The
        relay is to be told with ``inform`` once the host's lock is let go."""
        if self.settings is None:
            return ()
        corrected = self._correct(self.settings)
        kept = self._put(relay_table.read(self.settings.table_file), usable, unreadable, revision)
        return ("settings %s" % self._path, *kept) if corrected else kept

    def follow(
        self, usable: Iterable[Peer], unreadable: Iterable[str], revision: int
    ) -> tuple[object, ...]:
        """The same after an event: the table is taken to be as it was left, since reading it takes
        a while with thousands of peers."""
        if self.settings is None:
            return ()
        return self._put(self._table, usable, unreadable, revision)

    def inform(self, look: bool) -> Heed | None:
        """Have the relay use what was written. ``look``: see that it does, whoever wrote it, since
        one who was to tell it may have ended before. None if there was no reason to ask it. Not
        while the host's lock is held: it may take its time to answer."""
        if self.settings is None:
            return None
        if self._untold:
            self._untold = False
            return Heed(None, relay_table.tell(self.settings.control))
        if not look:
            return None
        return relay_table.heed(self.settings.control, self._table, self.settings)

    def _put(
        self,
        before: RelayTable | None,
        usable: Iterable[Peer],
        unreadable: Iterable[str],
        revision: int,
    ) -> tuple[object, ...]:
        if self.settings is None:
            return ()
        wanted = relay_table.desired(usable, unreadable, before or RelayTable(), revision)
        changes = relay_table.changes(before, wanted)
        if changes or before is None:
            relay_table.write(self.settings.table_file, wanted)
            self._untold = True
            before = wanted
        self._table = before
        return changes

    def _correct(self, wanted: RelaySettings) -> bool:
        """Write settings that differ from those there."""
        try:
            if load_settings(self._path) == wanted:
                return False
        except InvalidRelayConfig:
            pass  # written anew
        try:
            files.replace(self._path, wanted.to_json().encode(), 0o644)
            # Has it see that it has to start anew.
            self._untold = True
        except OSError as error:
            raise FlatnetError(
                "the relay's settings %s cannot be written: %s" % (self._path, error.strerror)
            ) from None
        return True

    def vector(self, backend: Backend, found: Peer | None, known: Peer | None) -> int:
        """Which vectors this host's lease should advertise: what the playbook had it say, in etcd
        as ``found`` or before somebody else overwrote it; else those that the relay is set to
        take."""
        if not backend.relay:
            return 0
        for lease in (found, known):
            if lease and lease.host_id:
                return lease.vector
        try:
            return VECTOR if load_settings(self._path).vector else 0
        except InvalidRelayConfig:
            return 0
