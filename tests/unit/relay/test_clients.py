# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is let in to ask the relay: the queue in front of it is nobody's for long."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay.clients import (
    Clients,
    Entrance,
)

from tests.lab.waiting import wait

BACKLOG = 8
# More than are let in at once.
MANY = 30


class Door:
    """A way in, and those who came to it."""

    def __init__(self, path: Path, private: bool, backlog: int) -> None:
        self._path = str(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen(backlog)
        self._poll = select.poll()
        self.clients = Clients(self._poll, [Entrance(self._listener, private)])
        self._come: list[socket.socket] = []
        self.serve()

    def come(self) -> socket.socket | None:
        """One more in the queue, unless it is full."""
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            connection.connect(self._path)
        except BlockingIOError:
            connection.close()
            return None
        self._come.append(connection)
        return connection

    def crowd(self) -> list[socket.socket]:
        """As many as the queue takes."""
        return list(iter(self.come, None))

    def serve(self) -> list[str]:
        """What those want who have said it, answered with the same."""
        found = self.clients.serve(dict(self._poll.poll(0)))
        for client, what in found:
            self.clients.answer(client, what.encode())
        return [what for dummy, what in found]

    def close(self) -> None:
        self.clients.close()
        for each in self._come:
            each.close()


@pytest.fixture(params=[False, True], ids=["public", "private"])
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path / "control", request.param, BACKLOG)
    yield made
    made.close()


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[Door]:
    """The way in for all, with room for many."""
    made = Door(tmp_path / "control", False, MANY)
    yield made
    made.close()


def _closed(connection: socket.socket) -> bool:
    try:
        return not connection.recv(100)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_nobody_keeps_a_place_in_the_queue(door: Door) -> None:
    """Whoever fills it has it for one turn, and then it is empty again."""
    crowd = door.crowd()
    assert len(crowd) > BACKLOG
    assert door.serve() == []
    assert len(door.crowd()) == len(crowd)


def test_whoever_has_spoken_is_heard_at_once(door: Door) -> None:
    """Before anybody else can make it lose its place."""
    one = door.come()
    assert one
    one.sendall(b"summary\n")
    assert door.serve() == ["summary"]
    assert one.recv(100) == b"summary"


def test_whoever_speaks_later_is_heard_later(door: Door) -> None:
    one = door.come()
    assert one
    assert door.serve() == []
    one.sendall(b"summary\n")
    assert door.serve() == ["summary"]


def test_who_comes_too_often_is_let_go_and_may_come_again(wide: Door) -> None:
    """A user is let in so many times in a while; the queue is emptied all the same."""
    crowd = wide.crowd()
    assert len(crowd) > MANY
    for each in crowd:
        each.sendall(b"status\n")
    heard = len(wide.serve())
    assert 0 < heard < MANY
    answers = [each for each in crowd if not _closed(each)]
    assert len(answers) == heard

    # It waits in the queue until the while is over.
    again = wide.come()
    assert again
    again.sendall(b"summary\n")
    assert wait(wide.serve, "its turn") == ["summary"]
