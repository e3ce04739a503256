# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each worker reads and writes: a queue of the device and a UDP socket."""

from __future__ import annotations

import os
import time

from ..host.journal import ERROR, WARNING, log
from . import device
from .config import RelaySettings
from .kept_sockets import Stored
from .rights import RelayFailed

End = tuple[device.Queue, device.Socket]

_MOST_AUTOMATIC = 4
# Seconds to wait for what is missing at the start, and until it is looked for again.
_WAIT, _AGAIN = 5.0, 0.25


class AlreadyTold(RelayFailed):
    """The relay cannot go on, and has logged why."""


def open_ends(settings: RelaySettings) -> list[End]:
    """A queue and a socket for each worker. The port is taken first. Raises DeviceUnavailable."""
    stored = Stored(settings.listen, settings.port)
    until = time.monotonic() + _WAIT
    told = ""
    while True:
        try:
            stored.hold()
            device.check_address(settings.listen, settings.port)
            queues = _queues(settings)
            try:
                sockets = stored.sockets(len(queues))
            except device.DeviceUnavailable:
                _close(queues)
                raise
            return list(zip(queues, map(device.prepare, sockets)))
        except device.DeviceUnavailable as error:
            # At a first start the caller is told at once, which matters above all at boot.
            if not stored.survived and not isinstance(error, device.PortTaken):
                raise
            if told != str(error):
                told = str(error)
                log(ERROR, told)
            if time.monotonic() > until:
                raise AlreadyTold(told) from None
            time.sleep(_AGAIN)


def _queues(settings: RelaySettings) -> list[device.Queue]:
    """A queue for each worker, or only one if the device cannot have several."""
    wanted = settings.workers
    if not wanted:
        wanted = max(1, min(_MOST_AUTOMATIC, len(os.sched_getaffinity(0)) // 2))
    queues: list[device.Queue] = []
    try:
        for dummy in range(wanted):
            queues.append(device.attach(settings.device))
            if wanted > 1 and not queues[0].multiple:
                log(WARNING, "device %s has one queue: one worker" % settings.device)
                break
    except device.DeviceUnavailable:
        _close(queues)
        raise
    return queues


def _close(queues: list[device.Queue]) -> None:
    for each in queues:
        os.close(each.fileno)
