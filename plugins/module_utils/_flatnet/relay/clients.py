# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Local clients that ask the relay something, over Unix sockets.

A request is one of a few literal lines; nothing that a client sends is parsed. The relay waits for
nobody: a client may send a few bytes, and its connection is closed when its time is over.

There are two sockets. Every local user may use the public one. It takes a limited number of
connections; for a new one, the user who has most of them loses the oldest. It also limits how often
each user may connect. Only root and the relay's own user can reach the private one, so nobody else
can keep them out.

From a local user's point of view: a new connection waits in the listener's queue first. The kernel
lets the fastest in there, whoever they are. If the relay emptied that queue at a fixed pace, a user
with a core to spare would take each place that gets free, and keep everybody else out. So the relay
empties the queue as fast as it can, for a part of the time, and closes the connections of a user
who comes too often at once.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import Counter
from typing import NamedTuple

#: What may be asked, in the words of this version, and of those before.
REQUESTS = {
    b"status\n": "status",
    b"reload\n": "reload",
    b"summary\n": "summary",
    b'{"command": "status"}\n': "status",
    b'{"command": "reload"}\n': "reload",
}
UNKNOWN = b'{"error": "the requests are reload, status and summary"}\n'
FORBIDDEN = b'{"error": "only root may have the relay reload its table"}\n'

_LONGEST = max(map(len, REQUESTS))
_CREDENTIALS = struct.Struct("=iII")  # process, user, group
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class _Terms(NamedTuple):
    """``places``: connections at a time. ``seconds``: how long each may last. ``span``: seconds in
    which each user has so many ``arrivals``, and in which all arrivals get so many seconds of
    ``work``."""

    places: int
    seconds: float
    arrivals: int
    span: float
    work: float


_PUBLIC = _Terms(64, 5.0, 16, 0.05, 0.01)
_PRIVATE = _Terms(32, 30.0, 32, 0.0, 0.01)
# Seconds until the relay accepts connections again after it had no descriptor left.
_REFUSED = 0.5


class Entrance:
    """A listening socket. ``private``: only root and the relay's own user can reach it."""

    def __init__(self, listener: socket.socket, private: bool) -> None:
        listener.setblocking(False)
        self.listener = listener
        self.private = private
        self.terms = _PRIVATE if private else _PUBLIC
        self.opens_at = 0.0
        # The present span: its end, the arrivals of each user, and the seconds of work.
        self.ends_at = 0.0
        self.came: Counter[int] = Counter()
        self.worked = 0.0


class Client:
    """A connection. ``trusted``: it may have the relay read its table anew."""

    def __init__(
        self, connection: socket.socket, user: int, entrance: Entrance, now: float
    ) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.user = user
        self.entrance = entrance
        self.trusted = entrance.private or user == 0
        self.ends_at = now + entrance.terms.seconds
        self.request = b""
        self.wants = ""
        self.answer: memoryview | None = None


class Clients:
    """All connections. They are registered with ``poll``; ``serve`` is given what it found."""

    def __init__(self, poll: select.poll, entrances: list[Entrance]) -> None:
        self._poll = poll
        self._entrances = sorted(entrances, key=lambda each: not each.private)
        self._clients: dict[int, Client] = {}
        self._asleep = set(self._entrances)

    def wait(self, now: float) -> float:
        """Seconds until something has to be done even if nothing comes."""
        moments = [each.ends_at for each in self._clients.values()]
        moments += [each.opens_at for each in self._asleep]
        return max(min(moments) - now, 0.0) if moments else 60.0

    def serve(self, ready: dict[int, int]) -> list[tuple[Client, str]]:
        """Read from and write to all that are ready. Returns those whose request is complete, each
        once."""
        now = time.monotonic()
        asked = []
        for client in list(self._clients.values()):
            events = ready.get(client.connection.fileno(), 0)
            if events & _GONE or now >= client.ends_at:
                self._close(client)
            elif events & select.POLLOUT:
                self._send(client)
            elif events & select.POLLIN:
                asked += self._read(client)
        for entrance in self._entrances:
            if entrance in self._asleep:
                if now < entrance.opens_at:
                    continue
                self._asleep.remove(entrance)
                self._poll.register(entrance.listener, select.POLLIN)
            elif entrance.listener.fileno() in ready:
                asked += self._accept(entrance, now)
        return asked

    def answer(self, client: Client, data: bytes) -> None:
        """Answer a client, unless it is gone."""
        if self._clients.get(client.connection.fileno()) is client:
            client.answer = memoryview(data)
            self._send(client)

    def close(self) -> None:
        """Close all connections and all listening sockets."""
        for client in list(self._clients.values()):
            self._close(client)
        for entrance in self._entrances:
            entrance.listener.close()

    def _accept(self, entrance: Entrance, now: float) -> list[tuple[Client, str]]:
        """Let in all that wait. Returns those whose request is complete already."""
        terms = entrance.terms
        if now >= entrance.ends_at:
            entrance.ends_at = now + terms.span
            entrance.came.clear()
            entrance.worked = 0.0
        asked: list[tuple[Client, str]] = []
        crowded = False
        before = time.thread_time() - entrance.worked
        while entrance.worked < terms.work:
            try:
                connection = entrance.listener.accept()[0]
            except BlockingIOError:
                break
            except ConnectionError:
                continue
            except OSError:
                self._sleep(entrance, now + _REFUSED)
                return asked
            user = _user(connection)
            entrance.came[user] += 1
            if entrance.came[user] > terms.arrivals:
                connection.close()
                crowded = True
            else:
                self._make_room(entrance)
                client = Client(connection, user, entrance, now)
                self._clients[connection.fileno()] = client
                self._poll.register(connection, select.POLLIN)
                asked += self._read(client)
            entrance.worked = time.thread_time() - before
        else:
            crowded = True
        if crowded:
            self._sleep(entrance, entrance.ends_at)
        return asked

    def _sleep(self, entrance: Entrance, until: float) -> None:
        entrance.opens_at = until
        self._asleep.add(entrance)
        self._poll.unregister(entrance.listener)

    def _make_room(self, entrance: Entrance) -> None:
        there = [each for each in self._clients.values() if each.entrance is entrance]
        if len(there) < entrance.terms.places:
            return
        users = Counter(each.user for each in there)
        # The first of them, since dictionaries keep the order in which clients came.
        self._close(max(there, key=lambda each: users[each.user]))

    def _read(self, client: Client) -> list[tuple[Client, str]]:
        """Read from a client. Returns its request once it is complete."""
        try:
            part = client.connection.recv(_LONGEST + 1 - len(client.request))
        except BlockingIOError:
            return []
        except OSError:
            part = b""
        if not part:
            self._close(client)
            return []
        client.request += part
        line, newline, dummy = client.request.partition(b"\n")
        if not newline and len(client.request) <= _LONGEST:
            return []
        what = client.wants = REQUESTS.get(line + newline, "")
        # Nothing more is read, but the client may go away.
        self._poll.modify(client.connection, 0)
        if not what:
            self.answer(client, UNKNOWN)
        elif what == "reload" and not client.trusted:
            self.answer(client, FORBIDDEN)
        else:
            return [(client, what)]
        return []

    def _send(self, client: Client) -> None:
        if client.answer is None:
            return
        try:
            sent = client.connection.send(client.answer)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(client)
            return
        client.answer = client.answer[sent:]
        if client.answer:
            self._poll.modify(client.connection, select.POLLOUT)
        else:
            self._close(client)

    def _close(self, client: Client) -> None:
        number = client.connection.fileno()
        self._poll.unregister(number)
        del self._clients[number]
        client.connection.close()


def _user(connection: socket.socket) -> int:
    """The user at the other end."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(data)[1]
    return user
