# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How programs that stay on a host speak to the journal and to systemd."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import sys
from collections.abc import Sequence

from ..errors import plain

# The levels of syslog.
ERROR, WARNING, NOTICE, INFO, DEBUG = 3, 4, 5, 6, 7

_PATIENCE = 5.0


def version() -> str:
    """The version of the installed package ``flatnet``; empty in the collection itself."""
    return str(getattr(sys.modules.get(__name__.partition(".")[0]), "__version__", ""))


def log(level: int, text: str) -> None:
    """Write a line to standard error. For the journal it begins with its level. A full disk, or a
    pipe that nobody reads, is no reason to end."""
    prefix = "<%d>" % level if "JOURNAL_STREAM" in os.environ else ""
    with contextlib.suppress(OSError):
        sys.stderr.write(prefix + plain(text.replace("\n", " ")) + "\n")
        sys.stderr.flush()


def notify(text: str, descriptors: Sequence[int] = ()) -> None:
    """Tell systemd something, as sd_notify(3) does, and give it copies of descriptors. Does nothing
    if nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        name = "\0" + address[1:] if address.startswith("@") else address
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        with channel, contextlib.suppress(OSError):
            # The listener may have been stopped. It is not waited for any longer.
            channel.settimeout(_PATIENCE)
            channel.sendmsg([text.encode()], [rights] if descriptors else [], 0, name)
