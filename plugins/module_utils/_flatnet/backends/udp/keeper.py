# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the relay's files up to date for flatnet-sync, while leases and the host change.

The module ``tun_relay`` writes the settings first. Settings that do not follow from leases stay as
it wrote them, because a run of the playbook may change them at any time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ...errors import FlatnetError
from ...host import files
from ...relay.config import (
    SETTINGS_PATH,
    InvalidRelayConfig,
    RelaySettings,
    RelayTable,
    load_settings,
)
from ..protocol import Backend, Here, Peer
from . import relay_table
from .backend import VECTOR
from .relay_table import Heed


class RelayKeeper:
    """This host's relay. With another backend there is none, and ``settings`` is None."""

    def __init__(self, path: str = SETTINGS_PATH) -> None:
        self._path = path
        self.settings: RelaySettings | None = None
        self._table: RelayTable | None = None
        self._untold = False

    def left(self, former: Backend, backend: Backend) -> bool:
        """Whether this host still has a relay for the ``former`` backend, and the new one has no
        use for it. The playbook removes it, the settings first."""
        return former.relay and not backend.relay and os.path.lexists(self._path)

    def learn(self, backend: Backend, here: Here, leaving: bool = False) -> None:
        """Work out what the settings should be. If their file is damaged or missing, those known
        until now are used. Raises InvalidRelayConfig if none are known.

        ``leaving``: the network has another config, and this host waits for the playbook. Then a
        missing file means that the playbook has removed the relay, and nothing is known any more.
        """
        if not backend.relay or not backend.device:
            self.settings = None
            return
        if leaving and not os.path.lexists(self._path):
            self.settings = None
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
        """Compare both files with what they should be, and correct them. Returns what differed. The
        caller has to call ``inform`` after it has released the host's lock."""
        if self.settings is None:
            return ()
        corrected = self._correct(self.settings)
        kept = self._put(relay_table.read(self.settings.table_file), usable, unreadable, revision)
        return ("settings %s" % self._path, *kept) if corrected else kept

    def follow(
        self, usable: Iterable[Peer], unreadable: Iterable[str], revision: int
    ) -> tuple[object, ...]:
        """As ``keep``, after an event. It does not read the table's file, because that takes a
        while with thousands of peers, but uses the table that it wrote last, if there is one."""
        if self.settings is None:
            return ()
        before = self._table or relay_table.read(self.settings.table_file)
        return self._put(before, usable, unreadable, revision)

    def inform(self, look: bool) -> Heed | None:
        """Make the relay use what was written; None if there was no reason to ask it.

        ``look``: also check that the relay uses what others wrote, because they may have ended
        before they could tell it. Do not call this under the host's lock: the relay may answer
        slowly.
        """
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
        """Write the settings if they differ from the file. Returns whether they did."""
        try:
            if load_settings(self._path) == wanted:
                return False
        except InvalidRelayConfig:
            pass  # written anew
        try:
            files.replace(self._path, wanted.to_json().encode(), 0o644)
            # The relay then sees that it has to start anew.
            self._untold = True
        except OSError as error:
            raise FlatnetError(
                "the relay's settings %s cannot be written: %s" % (self._path, error.strerror)
            ) from None
        return True

    def vector(self, backend: Backend, found: Peer | None, known: Peer | None) -> int:
        """The format of vectors that this host's lease should name: that of its lease, as ``found``
        in etcd, or as ``known`` before somebody overwrote it. Without such a lease, the format that
        the relay's settings allow."""
        if not backend.relay:
            return 0
        for lease in (found, known):
            if lease and lease.host_id:
                return lease.vector
        try:
            return VECTOR if load_settings(self._path).vector else 0
        except InvalidRelayConfig:
            return 0
