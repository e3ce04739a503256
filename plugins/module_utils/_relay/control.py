# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking a running relay over a Unix socket: a word and a newline, answered with a line of JSON."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from ..errors import FlatnetError

_LONGEST = 64 << 20


class RelayUnavailable(FlatnetError):
    """No relay answers, or it refuses."""


def ask(path: str, command: str, timeout: float = 5.0) -> dict[str, Any]:
    """The answer to ``status`` (counters and settings) or ``reload`` (the table is read anew, and
    in use when the answer comes; a broken one is refused, and the one before stays in use).

    Raises RelayUnavailable.
    """
    data = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(entrance(path))
            connection.sendall(command.encode() + b"\n")
            while not data.endswith(b"\n") and len(data) < _LONGEST:
                part = connection.recv(1 << 16)
                if not part:
                    break
                data += part
    except OSError as error:
        raise RelayUnavailable(
            "no relay answers at %s: %s" % (path, error.strerror or "timed out")
        ) from None
    try:
        answer = json.loads(data)
    except ValueError:
        raise RelayUnavailable("the relay at %s ended while it answered" % path) from None
    if not isinstance(answer, dict) or "error" in answer:
        text = answer.get("error") if isinstance(answer, dict) else answer
        raise RelayUnavailable("the relay at %s: %s" % (path, text))
    return answer


def private_path(path: str) -> str:
    """Of the socket that only root and the relay's own user can reach, beside that for all."""
    folder, name = os.path.split(path)
    return os.path.join(folder, "private", name)


def entrance(path: str) -> str:
    """The socket to use: the private one, where nobody else can be in the way, if it can be
    reached."""
    private = private_path(path)
    return private if os.path.exists(private) else path
