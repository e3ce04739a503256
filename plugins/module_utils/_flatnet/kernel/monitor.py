# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's notifications that something of ours has changed.

Reads rtnetlink's notifications and holds each against what should be there. It decides only
whether to look: what it tells is "observe and plan again", never what to change. So a notification
that is lost, late or our own can cost a look at most.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable, Mapping

from . import messages, netlink
from .entries import MAIN_TABLE, PROTOCOL, Entry, Neigh
from .netlink import NetlinkError, by_index

# RTNLGRP_*: link, neigh, ipv4 address, ipv4 route, ipv6 address, ipv6 route.
_GROUPS = (1, 3, 5, 7, 9, 11)
_ADD_MEMBERSHIP = 1
_RECEIVE_BUFFER = 8 << 20


class Monitor:
    """A socket that says when to look; poll ``fileno()``, then call ``suspicious()``.

    ``desired`` is looked at, never changed: what the kernel should hold, by entry key. ``devices``
    are those whose state matters as such, ours and the underlay's.
    """

    def __init__(self) -> None:
        self._socket = netlink.open_socket(_RECEIVE_BUFFER)
        self._socket.setblocking(False)
        for group in _GROUPS:
            self._socket.setsockopt(netlink.SOL_NETLINK, _ADD_MEMBERSHIP, group)
        self._names = by_index()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def suspicious(
        self, desired: Mapping[Hashable, Entry], ours: frozenset[str], underlay: str
    ) -> bool:
        """Read all there is; whether the kernel may differ from ``desired``.

        ``ours`` are the overlay's devices, ``underlay`` is the interface that it stands on.
        """
        found = False
        while True:
            try:
                data = self._socket.recv(1 << 17)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise NetlinkError("cannot watch the kernel: %s" % error) from None
                found = True  # notifications were lost: whatever they said, look
                continue
            for kind, dummy, dummy, body in netlink.split(data):
                found = self._differs(kind, body, desired, ours, underlay) or found

    def _differs(
        self,
        kind: int,
        body: bytes,
        desired: Mapping[Hashable, Entry],
        ours: frozenset[str],
        underlay: str,
    ) -> bool:
        if kind in (netlink.RTM_NEWLINK, netlink.RTM_DELLINK):
            index = messages.link_index(body)
            before = self._names.get(index)
            self._names = by_index()
            name = self._names.get(index, before)
            return name in ours or before in ours or name == underlay
        if kind in (netlink.RTM_NEWADDR, netlink.RTM_DELADDR):
            address = messages.decode_address(body, self._names)
            return bool(address and (address.dev in ours or address.dev == underlay))
        gone = kind in (netlink.RTM_DELNEIGH, netlink.RTM_DELROUTE)
        entry: Entry | None
        if kind in (netlink.RTM_NEWROUTE, netlink.RTM_DELROUTE):
            entry = messages.decode_route(body, MAIN_TABLE, self._names)
            if entry is None:
                return False
            mine = entry.protocol == PROTOCOL or entry.dev in ours or entry.key in desired
            if entry.dev == underlay and not mine:
                return True  # how peers are reached over the underlay may have changed
        else:
            entry = messages.decode_neighbour_event(body, self._names, ours)
            mine = entry is not None
        if entry is None or not mine:
            return False
        # No longer permanent, it is on its way out: so the kernel begins a removal of ours, too.
        if gone or (isinstance(entry, Neigh) and not entry.mac):
            return entry.key in desired
        return desired.get(entry.key) != entry
