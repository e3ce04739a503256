# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking a running relay over a Unix socket: a word and a newline, answered with a line of JSON.

Root asks, and the relay's user answers. Somebody may have taken over that user through the network.
So there is one deadline for question and answer, the size of an answer is limited, and an answer is
checked before anybody uses or prints it. Nobody may ask while holding the host's lock.
"""

from __future__ import annotations

import math
import os
import socket
import time
from typing import Any

from ..errors import FlatnetError, InvalidInput
from ..fields import is_number, load_object, show

# How many bytes an answer may have. One with all peers has a few hundred for each of them.
_MOST = {"status": 64 << 20, "summary": 1 << 16, "reload": 1 << 16}
_PART = 1 << 16
# Seconds until the next try: to get into the listener's queue, and to be let in.
_SOON, _AGAIN = 0.0005, 0.05

_TABLE = {"revision": int, "peers": int, "digest": str}
_SUMMARY: dict[str, Any] = {
    "version": str,
    "pid": int,
    "started": float,
    "settings": {
        **dict.fromkeys(("device", "address", "subnet", "network", "listen", "control"), str),
        **dict.fromkeys(("mtu", "port", "workers"), int),
        "vector": bool,
    },
    "offload": {"device": str, "udp_segment": bool, "udp_gro": bool, "receive_buffer": int},
    "workers": int,
    "table": _TABLE,
    "table_error": str,
    "totals": {"": int},
    "drops": {"": int},
    "icmp_sent": int,
}
_COUNTS = ("mtu", "tx_packets", "tx_bytes", "tx_vectors", "rx_packets", "rx_bytes", "rx_vectors")
_PEER = {"address": str, "subnets": [str], "mode": str, **dict.fromkeys(_COUNTS, int)}
# What each answer has at least: a dict has fields by their names ("" stands for every name), a list
# has one shape for all its items.
_SHAPES: dict[str, Any] = {
    "status": {**_SUMMARY, "peers": [_PEER]},
    "summary": _SUMMARY,
    "reload": _TABLE,
}


class RelayUnavailable(FlatnetError):
    """No relay answers, its answer makes no sense, or it refuses."""


class RelayGone(RelayUnavailable):
    """No relay runs. When one starts, it reads its files."""


class _NoAnswer(InvalidInput):
    """What came is no answer, or it is an error."""


def ask(path: str, command: str, timeout: float = 5.0) -> dict[str, Any]:
    """The answer to

    - ``status``: counters, settings and the table in use, for people with all peers
    - ``summary``: the same without peers
    - ``reload``: the table is read anew, and in use when the answer comes; a broken one is refused,
      and the one before stays in use

    after ``timeout`` seconds at most. Raises RelayUnavailable.
    """
    try:
        data = _exchange(path, command, time.monotonic() + timeout)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        raise RelayGone("no relay answers at %s: %s" % (path, error.strerror)) from None
    except socket.timeout:
        raise RelayUnavailable(
            "the relay at %s does not answer within %.3g seconds" % (path, timeout)
        ) from None
    except OSError as error:
        raise RelayUnavailable(
            "no relay answers at %s: %s" % (path, error.strerror or error)
        ) from None
    if not data.endswith(b"\n"):
        words = "ended while it answered"
        if len(data) > _MOST[command]:
            words = "answers with more than %d bytes" % _MOST[command]
        raise RelayUnavailable("the relay at %s %s" % (path, words))
    try:
        answer = _parse(data, command)
    except FlatnetError as error:
        raise RelayUnavailable("the relay at %s: %s" % (path, error)) from None
    return answer


def _exchange(path: str, command: str, deadline: float) -> bytes:
    """What comes until a line has ended, the other end is closed, or it is too much. A user who
    comes to the public socket too often gets nothing, and has to ask again."""
    while True:
        way = entrance(path)
        data = b""
        try:
            data = _try(way, command, deadline)
        except (BrokenPipeError, ConnectionResetError):
            if way != path:
                raise
        left = deadline - time.monotonic()
        if data or way != path or left < _AGAIN:
            return data
        time.sleep(_AGAIN)


def _try(way: str, command: str, deadline: float) -> bytes:
    """The same, with one connection."""
    data = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        while True:
            connection.settimeout(_left(deadline))
            try:
                connection.connect(way)
                break
            except BlockingIOError:  # the listener's queue is full
                time.sleep(_SOON)
        connection.sendall(command.encode() + b"\n")
        while len(data) <= _MOST[command]:
            connection.settimeout(_left(deadline))
            part = connection.recv(min(_PART, _MOST[command] + 1 - len(data)))
            data += part
            if not part or part.endswith(b"\n"):
                break
    return bytes(data)


def private_path(path: str) -> str:
    """The path of the private socket, given that of the public one."""
    folder, name = os.path.split(path)
    return os.path.join(folder, "private", name)


def entrance(path: str) -> str:
    """The socket to use: the private one, if we can reach it."""
    private = private_path(path)
    return private if os.path.exists(private) else path


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout
    return left


def _parse(data: bytes, command: str) -> dict[str, Any]:
    answer = load_object(data, _NoAnswer, "the answer")
    if "error" in answer:
        text = answer["error"]
        raise _NoAnswer(text[:500] if _fits(text, str) else show(text))
    if not _fits(answer, _SHAPES[command]) or not _plain(answer):
        raise _NoAnswer("the answer is not that of a relay of this version: %s" % show(data))
    return answer


def _fits(value: Any, shape: Any) -> bool:
    """Whether a decoded value has the shape."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if "" in shape:
            return all(_fits(each, shape[""]) for each in value.values())
        return all(name in value and _fits(value[name], each) for name, each in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(each, shape[0]) for each in value)
    if shape is str:
        return isinstance(value, str) and value.isprintable()
    if shape is bool:
        return isinstance(value, bool)
    if shape is float:
        return _fits(value, int) or (isinstance(value, float) and math.isfinite(value))
    return is_number(value) and abs(value) < 1 << 63


def _plain(value: Any, depth: int = 6) -> bool:
    """Whether all of it may be shown as it is: no control characters, and not nested deeply."""
    if isinstance(value, dict):
        return depth > 0 and all(
            _plain(name) and _plain(each, depth - 1) for name, each in value.items()
        )
    if isinstance(value, list):
        return depth > 0 and all(_plain(each, depth - 1) for each in value)
    return value is None or any(_fits(value, each) for each in (str, bool, float))
