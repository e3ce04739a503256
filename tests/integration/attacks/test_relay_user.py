# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on flatnet-sync, which is root, by the relay's user; and by bad luck between the two."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import socket
import subprocess
import threading
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay import config, control

from tests.integration.programs import Program, Programs
from tests.integration.sync.test_udp import FIRST, SETTINGS, TABLE, UDP, peer_lease, table
from tests.lab import Host
from tests.lab.waiting import wait
from tests.relay import impostor
from tests.relay.hosts import lose_reload
from tests.relay.impostor import Impostor


@pytest.fixture
def fleet(programs: Programs) -> t.Iterator[Programs]:
    """Hosts as tun_relay left them, flatnet-sync running, and no relay yet."""
    for each in programs.begin(UDP, check_interval=1):
        host = each.host
        (host.etc / "flatnet").mkdir(exist_ok=True)
        (host.etc / SETTINGS).write_text(json.dumps({**FIRST, "listen": host.address}))
    for each in programs.all:
        each.start()
    for each in programs.all:
        wait(lambda each=each: len(table(each.host)) == 2, each.host.name)  # type: ignore[misc]
    yield programs
    programs.end()


@pytest.fixture
def program(fleet: Programs) -> Program:
    return fleet.all[0]


def _socket(host: Host) -> Path:
    """Where the relay answers, in a folder of its user's."""
    path = host.run / "flatnet-relay/control"
    path.parent.mkdir(exist_ok=True)
    user = pwd.getpwnam("nobody")
    os.chown(path.parent, user.pw_uid, user.pw_gid)
    return path


def _goes_on(fleet: Programs, program: Program, number: int) -> None:
    """A lease that is written now comes into the table."""
    name, value = peer_lease(number)
    fleet.put(name, value)
    wait(lambda: name.replace("-", "/") in table(program.host), "the new peer")


ANSWERS = {
    "a byte a second": impostor.slowly,
    "nothing": impostor.never,
    "nested": impostor.saying(impostor.NESTED),
    "nested objects": impostor.saying(impostor.NESTED_OBJECTS),
    "100 MB": impostor.saying(impostor.LONG),
    "control characters": impostor.saying(impostor.ESCAPES),
    "no answer": impostor.saying(impostor.ODD),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_whatever_the_relays_user_answers(fleet: Programs, program: Program, answer: str) -> None:
    """Who: the relay's user, which somebody on the network may have taken over. Means: answers to
    root's flatnet-sync, when it asks the relay what it uses or has it read its table. It goes on,
    says so in its status, and shows nothing raw; and is content when a relay answers again."""
    pid = program.told("pid")
    with Impostor(_socket(program.host), ANSWERS[answer]) as relay:
        wait(lambda: relay.asked, "a question")
        wait(lambda: "relay" in program.errors(), "the status")
        text = program.errors()
        assert text.isprintable(), repr(text)
        assert len(text) < 1000
        _goes_on(fleet, program, 7)
    wait(lambda: program.told("errors") == [], "the end of the trouble")
    assert program.running
    assert program.told("pid") == pid
    assert "Traceback" not in program.said()


def test_an_event_heals_nothing(programs: Programs) -> None:
    """Who: the relay's user. Means: it does not answer. A lease that is written anew, and changes
    nothing in the table, is no reason to say that the relay is well."""
    (program, *dummy) = programs.begin(UDP, check_interval=600)
    host = program.host
    (host.etc / "flatnet").mkdir(exist_ok=True)
    (host.etc / SETTINGS).write_text(json.dumps({**FIRST, "listen": host.address}))
    try:
        with Impostor(_socket(host), impostor.never):
            program.start()
            wait(lambda: "relay" in program.errors(), "the status")
            name, value = peer_lease(7)
            for what in ("the new peer", "the same once more"):
                before = program.told("revision")
                programs.put(name, value)
                wait(lambda before=before: program.told("revision") > before, what)  # type: ignore[misc]
                assert "relay" in program.errors()
            assert name.replace("-", "/") in table(host)
    finally:
        programs.end()


def test_the_hosts_lock_is_free_while_the_relay_is_asked(program: Program) -> None:
    """Who: the relay's user. Means: it takes its time to answer. Meanwhile whoever else changes the
    overlay on this host, such as a run of the playbook, can have the lock."""
    found: list[str] = []
    looked = threading.Event()

    def look(connection: socket.socket, ended: threading.Event) -> None:
        connection.recv(4096)
        with (program.host.run / "flatnet/lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append("held")
            else:
                connection.setblocking(False)
                try:
                    found.append("too late" if connection.recv(1) == b"" else "odd")
                except BlockingIOError:
                    found.append("free")
        looked.set()
        ended.wait(30)

    before = program.told("revision")
    with Impostor(_socket(program.host), look):
        # One of its checks, and the telling of a new table.
        wait(looked.is_set, "a question")
        (program.host.etc / TABLE).unlink()
        looked.clear()
        wait(looked.is_set, "another one")
    assert set(found) == {"free"}, found
    assert program.told("revision") >= before


class Relay:
    """A relay of the working tree, where the settings say."""

    def __init__(self, program: Program) -> None:
        self._path = str(_socket(program.host))
        self.process = subprocess.Popen(
            program.host.command(["/usr/bin/python3", "-m", "flatnet.relay.command", "run"]),
            env=program._environment(),
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *failure: object) -> None:
        self.process.terminate()
        self.process.wait(30)

    def in_use(self) -> dict[str, t.Any]:
        """Its table; none while it does not answer."""
        try:
            found: dict[str, t.Any] = control.ask(self._path, "summary", 30)["table"]
        except control.RelayUnavailable:
            return {"revision": -1, "peers": -1, "digest": ""}
        return found


def test_a_reload_that_got_lost_is_made_up_for(program: Program) -> None:
    """Who: bad luck, such as flatnet-sync killed after it wrote the table and before it told the
    relay, or a control socket whose queue was full. The next check finds that the relay uses
    another table than its file says, has it read that, and tells of a repair."""
    path = program.host.etc / TABLE
    with Relay(program) as relay:
        wait(lambda: relay.in_use()["peers"] == 2, "the relay")
        program.kill()
        good = path.read_text()
        wanted = config.load_table(str(path)).digest
        lose_reload(path, relay._path)
        assert relay.in_use()["digest"] != wanted
        program.start()
        wait(lambda: relay.in_use()["digest"] == wanted, "the table in use")
        wait(lambda: "have the relay use" in program.repairs(), "the status")
        assert program.told("errors") == []
        assert path.read_text() == good


def test_the_relay_looks_itself_now_and_then(program: Program) -> None:
    """Who: bad luck: whoever wrote the table has ended, and nobody else comes. The relay sees that
    the file is another one."""
    path = program.host.etc / TABLE
    with Relay(program) as relay:
        wait(lambda: relay.in_use()["peers"] == 2, "the relay")
        program.kill()
        found = config.load_table(str(path))
        draft = path.with_name("draft")
        draft.write_text(config.RelayTable(found.peers[:1], found.revision + 1).to_json())
        draft.replace(path)
        wait(lambda: relay.in_use()["peers"] == 1, "the table in use")
