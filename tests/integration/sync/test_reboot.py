# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flatnet-sync restore: a host that lost all that its kernel held, with nobody to ask."""

from __future__ import annotations

import hashlib
import json
import typing as t

import pytest

from tests.integration.overlay import host_gw_lease
from tests.integration.programs import HOST_GW, Peer, Program, Programs, peer
from tests.lab.waiting import wait


def left_alone(programs: Programs) -> Program:
    """A host rebooted while etcd is away; its service does not run."""
    program = programs.all[0]
    programs.etcd.kill()
    program.kill()
    programs.lab.reboot(program.host)
    return program


def test_all_of_it_comes_back_without_etcd(programs: Programs) -> None:
    program = programs.started()[0]
    programs.join(*map(peer, range(100, 130)))
    programs.settle()
    programs.add_pods()
    assert programs.pods_answer()
    wait(lambda: b"10.5.129.0-24" in program.state.read_bytes(), "the state with all peers")
    before = program.dump()
    assert len(before) > 3 * 30

    left_alone(programs)
    assert "flannel.1" not in str(program.dump())
    done = program.run("restore")
    assert done.returncode == 0, done.stderr
    programs.add_pods()
    program.becomes(before)
    assert programs.pods_answer()
    # There is nothing left to do: neither now nor for the service.
    assert "changes" not in program.run("restore").stderr
    program.start()
    assert program.dump() == before
    assert program.told("changes") == 0


def test_the_same_with_host_gw(programs: Programs) -> None:
    program = programs.begin(HOST_GW)[0]
    for each in programs.all:
        each.start()
        wait(each.state.exists, "the state of " + each.host.name)
    programs.put("10.5.100.0-24", host_gw_lease("172.21.0.200"))
    wait(lambda: "10.5.100.0/24" in program.ip("route"))
    wait(lambda: b"172.21.0.200" in program.state.read_bytes())
    programs.add_pods()
    before = program.dump()
    left_alone(programs)
    assert program.run("restore").returncode == 0
    programs.add_pods()
    # The kernel takes a while to see that the bridge has somebody at the other end.
    program.becomes(before)
    assert programs.pods_answer()


def test_the_state_of_an_earlier_version_is_enough(programs: Programs) -> None:
    """Of the first one, which knew nothing of revisions: also who was leased a subnet under an
    older config comes back."""
    program = programs.started()[0]
    programs.join(peer(120))
    programs.settle()
    programs.saved(program)
    other = Peer("10.5.130.0/25", "172.21.0.230", peer(130).mac)
    found = json.loads(program.state.read_bytes().partition(b"\n")[2])
    found["leases"][other.name] = other.value
    known = ("config", "leases", "own", "revision", "interface", "address", "retained")
    body = json.dumps({**{name: found[name] for name in known}, "retained_until": 0.0}).encode()
    left_alone(programs)
    digest = hashlib.sha256(body).hexdigest()
    program.state.write_bytes(b"flatnet-state 1 %s\n%s" % (digest.encode(), body))
    # Nor does what it said about itself bring this one down.
    status = program.host.run / "flatnet/status.json"
    status.parent.mkdir(exist_ok=True)
    status.write_text('{"pid":1,"connected":false,"skipped":[],"errors":[]}')
    done = program.run("status")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "is not one of this version" in done.stderr

    assert program.run("restore").returncode == 0
    everybody = [*(each.own for each in programs.all), peer(120), other]
    programs.reaches(program, everybody)
    # Without etcd, and with it.
    program.start()
    wait(lambda: program.told("errors"), "etcd is away")
    programs.reaches(program, everybody)
    programs.etcd.start()
    # It was never told to delete what it has not.
    wait(lambda: program.told("retained") == 1, "etcd is back")
    programs.reaches(program, everybody)


def cut(state: bytes) -> bytes:
    return state[: len(state) * 2 // 3]


def changed(state: bytes) -> bytes:
    return state.replace(b"172.21.0.12", b"172.21.0.13")


def of_another_version(state: bytes) -> bytes:
    return state.replace(b"flatnet-state 1 ", b"flatnet-state 2 ", 1)


def with_another_body(body: bytes) -> t.Callable[[bytes], bytes]:
    """The checksum fits, and what it is of makes no sense."""

    def damage(_state: bytes) -> bytes:
        return b"flatnet-state 1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body

    return damage


DAMAGES = [
    (cut, "its checksum does not fit"),
    (changed, "its checksum does not fit"),
    (lambda _state: b"", "is not a state of this program"),
    (lambda state: b"\0" * len(state), "is not a state of this program"),
    (lambda _state: b'{"leases": {}}\n', "is not a state of this program"),
    (lambda _state: b"\xff\xfe\n\n\xff", "is not a state of this program"),
    (of_another_version, "is of version 2, this program reads version 1"),
    (with_another_body(b"[]"), "does not parse"),
    (with_another_body(b'{"config":"{}"}'), "does not parse"),
]


@pytest.fixture(scope="module")
def rebooted(programs: Programs) -> tuple[Program, bytes]:
    """A host that may not restore, and what its state file was."""
    program = programs.started()[0]
    wait(lambda: program.state.read_bytes().count(b"PublicIP") == 3 * 2)
    state = program.state.read_bytes()
    left_alone(programs)
    return program, state


@pytest.mark.parametrize(("damage", "text"), DAMAGES)
def test_a_damaged_state_is_refused_whole(
    rebooted: tuple[Program, bytes], damage: t.Callable[[bytes], bytes], text: str
) -> None:
    program, state = rebooted
    program.state.write_bytes(damage(state))
    before = program.dump()
    done = program.run("restore")
    assert done.returncode == 1
    assert text in done.stderr
    assert "/etc/flatnet/state" in done.stderr
    assert done.stderr.count("\n") == 1
    assert program.dump() == before


def test_a_lease_that_does_not_parse_is_refused_whole(rebooted: tuple[Program, bytes]) -> None:
    program, state = rebooted
    body = state.partition(b"\n")[2].replace(b"172.21.0.13", b"172.21.0.1x")
    program.state.write_bytes(with_another_body(body)(state))
    before = program.dump()
    done = program.run("restore")
    assert done.returncode == 1
    assert "172.21.0.1x" in done.stderr
    assert "Traceback" not in done.stderr
    assert program.dump() == before


def test_without_a_state_there_is_nothing_to_do(rebooted: tuple[Program, bytes]) -> None:
    program, _state = rebooted
    program.state.unlink(missing_ok=True)
    before = program.dump()
    done = program.run("restore")
    assert done.returncode == 0
    assert "nothing to restore" in done.stderr
    assert program.dump() == before


def test_an_underlay_that_moved_gets_no_tunnel(rebooted: tuple[Program, bytes]) -> None:
    program, state = rebooted
    program.state.write_bytes(state)
    program.ip("addr del 172.21.0.11/16 dev eth0")
    program.ip("addr add 172.21.0.77/16 brd + dev eth0")
    before = program.dump()
    for _once in range(2):
        done = program.run("restore")
        assert done.returncode == 1
        assert "was 172.21.0.11/16 on eth0 and is 172.21.0.77/16 on eth0 now" in done.stderr
        assert program.dump() == before
        # Nor does the service, as long as etcd is away.
        program.start()
        assert "172.21.0.77/16 on eth0 now" in program.errors()
        assert program.dump() == before
        program.kill()


def test_a_damaged_state_is_written_anew(programs: Programs) -> None:
    program = programs.started()[0]
    program.kill()
    program.state.write_bytes(cut(program.state.read_bytes()))
    before = program.dump()
    program.start()
    wait(lambda: program.told("connected"))
    assert "is damaged" in program.said()
    assert program.dump() == before
    program.stop()
    programs.etcd.kill()
    assert program.run("restore").returncode == 0
