# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The UDP sockets, which stay open when the relay ends: systemd, or our supervisor, keeps them.

From a port's point of view: it is bound when the relay starts for the first time. A copy of each
socket goes to systemd's store of file descriptors, or to our supervisor, which has the same
protocol (sd_notify(3), FDSTORE=1). When a relay ends, for whatever reason, its sockets stay bound,
and what arrives meanwhile waits in them. The next relay is started with them (sd_listen_fds(3)) and
goes on. So nobody else on the host can take the port, or get what peers send to it, until the
service is stopped.

Sockets that do not fit the settings any more are removed from the store, and closed.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import NamedTuple

from ..host.journal import notify
from . import device

_FIRST = 3  # sd_listen_fds(3): descriptors are handed on from here


class _Stored(NamedTuple):
    name: str
    udp: socket.socket


class Stored:
    """The sockets of one address and port. ``survived``: an earlier relay has left one."""

    def __init__(self, address: str, port: int) -> None:
        self._address = address
        self._port = port
        self._kept: list[_Stored] = []
        self._names: set[str] = set()
        for each in _handed_on():
            fits = device.fits(each.udp, address, port) and each.name not in self._names
            self._names.add(each.name)
            if fits:
                self._kept.append(each)
            else:
                self._drop(each)
        self.survived = bool(self._kept)

    def hold(self) -> None:
        """Have at least one socket, so that the port is ours; raises DeviceUnavailable."""
        if not self._kept:
            self._add(device.bind(self._address, self._port, beside=False))

    def sockets(self, count: int) -> list[socket.socket]:
        """So many sockets; those beyond are closed. Raises DeviceUnavailable."""
        while len(self._kept) > count:
            self._drop(self._kept.pop())
        self.hold()
        for each in self._kept:
            device.share(each.udp, count > 1)
        try:
            self._fill(count)
        except device.DeviceUnavailable:
            # Sockets on one port have to be of one user. Those that were handed on may be of the
            # user that the relay was before.
            while self._kept:
                self._drop(self._kept.pop())
            self.hold()
            device.share(self._kept[0].udp, count > 1)
            self._fill(count)
        return [each.udp for each in self._kept]

    def _fill(self, count: int) -> None:
        while len(self._kept) < count:
            self._add(device.bind(self._address, self._port, beside=True))

    def _add(self, udp: socket.socket) -> None:
        numbers = (number for number in range(1 << 16))
        name = next(each for each in map("udp-%d".__mod__, numbers) if each not in self._names)
        self._names.add(name)
        self._kept.append(_Stored(name, udp))
        # FDPOLL=0: systemd would close a socket that has an error.
        notify("FDSTORE=1\nFDNAME=%s\nFDPOLL=0" % name, [udp.fileno()])

    def _drop(self, each: _Stored) -> None:
        each.udp.close()
        if each.name not in [other.name for other in self._kept]:
            notify("FDSTOREREMOVE=1\nFDNAME=%s" % each.name)


def _handed_on() -> list[_Stored]:
    """The sockets that this process was started with. Processes that it starts do not get them."""
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    pid, count, words = (os.environ.pop(name, "") for name in names)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    labels = words.split(":") + ["unknown"] * int(count)
    for name, number in zip(labels, range(_FIRST, _FIRST + int(count))):
        with contextlib.suppress(OSError):
            os.set_inheritable(number, False)
            found.append(_Stored(name, socket.socket(fileno=number)))
    return found
