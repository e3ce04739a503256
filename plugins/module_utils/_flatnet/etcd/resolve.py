# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses of a name, within a time. Private to client.py.

The system's resolver cannot be interrupted. If a name server is silent, it takes half a minute or
more. So it runs in a thread, at most one for each endpoint, which may go on when nobody waits.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from .errors import EtcdUnreachable, Failed

# As getaddrinfo gives them.
Addresses = list[Any]


class Resolver:
    """Resolves one name, with a port."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._thread: threading.Thread | None = None
        self._found: Addresses | OSError | UnicodeError | None = None

    def addresses(self, seconds: float) -> Addresses:
        """The addresses, as getaddrinfo gives them. Raises Failed if the name is unknown, or is not
        resolved within ``seconds``."""
        with contextlib.suppress(OSError, UnicodeError):
            return self._look(socket.AI_NUMERICHOST)
        if self._thread is None or not self._thread.is_alive():
            self._found = None
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._thread.join(max(seconds, 0))
        found = self._found
        if found is None:
            raise Failed(EtcdUnreachable, "the name does not resolve in time")
        if isinstance(found, (OSError, UnicodeError)):
            why = getattr(found, "strerror", None) or str(found)
            raise Failed(EtcdUnreachable, f"the name does not resolve ({why})")
        return found

    def _run(self) -> None:
        try:
            self._found = self._look(0)
        except (OSError, UnicodeError) as error:
            self._found = error

    def _look(self, flags: int) -> Addresses:
        return socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=flags)
