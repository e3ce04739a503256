# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay as a process: whose it is, what it says of itself, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import typing as t

import pytest

from tests.lab import Lab
from tests.lab.system import netns_pids
from tests.lab.waiting import wait
from tests.relay.hosts import DEVICE, PORT, USER, Fleet, RelayHost
from tests.relay.sockets import udp_socket


@pytest.fixture(scope="module")
def fleet(lab_factory: t.Callable[..., Lab]) -> t.Iterator[Fleet]:
    with Fleet(lab_factory(hosts=2, etcd=0)) as made:
        yield made


@pytest.fixture
def host(fleet: Fleet) -> RelayHost:
    """One of two relays that have something to say to each other."""
    fleet.stop()
    fleet.carry("vector", "vector")
    assert all(fleet.lab.ping_matrix().values())
    return fleet.hosts[0]


def _command(host: RelayHost, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **host.fleet.environment}
    return host.host.exec(host.relay_command(*words), env=env, timeout=20)


def _fails(host: RelayHost, *words: str) -> str:
    """What a command that fails says: a sentence, no traceback."""
    done = _command(host, *words)
    assert done.returncode == 1, done
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_it_has_no_rights(host: RelayHost) -> None:
    """All of its processes are an ordinary user's, without capabilities and other groups."""
    processes = netns_pids([host.host.netns])
    assert len(processes) >= 2
    for pid in processes:
        with open("/proc/%d/status" % pid) as file:
            found = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        user = host.host.exec(["id", "-u", USER]).stdout.strip()
        assert set(found["Uid"].split()) == {user}
        assert found["Groups"].strip() == ""
        assert {found[name] for name in ("CapPrm", "CapEff", "CapAmb")} == {"0" * 16}


def test_status_for_people(host: RelayHost) -> None:
    done = _command(host, "status")
    assert done.returncode == 0, done.stderr
    other = host.fleet.hosts[1]
    for words in (DEVICE, host.subnet, other.address, other.subnet, str(PORT), "1 peers"):
        assert words in done.stdout, done.stdout


def test_status_as_json(host: RelayHost) -> None:
    done = _command(host, "status", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["totals"]["tx_packets"] >= 1
    assert found["totals"]["rx_bytes"] >= 84
    assert [peer["address"] for peer in found["peers"]] == [host.fleet.hosts[1].address]
    assert found["settings"]["device"] == DEVICE


def test_status_for_prometheus(host: RelayHost) -> None:
    """The text format's grammar, in short; counters have a type and never fall."""
    one, other = (_command(host, "status", "--prometheus").stdout for dummy in range(2))
    sample = r'[a-z_]+(\{[a-z]+="[^"\\\n]*"\})? -?[0-9.e+]+'
    typed = set()
    for line in one.splitlines():
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        elif not line.startswith("# HELP "):
            assert re.fullmatch(sample, line), line
            assert line.split("{")[0].split()[0] in typed
    assert "flatnet_relay_tx_packets_total" in typed
    assert _counters(one).keys() <= _counters(other).keys()
    for name, value in _counters(one).items():
        assert _counters(other)[name] >= value


def _counters(text: str) -> dict[str, float]:
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if "_total" in line.split()[0])
    return {name: float(value) for name, value in pairs}


def test_reload(host: RelayHost) -> None:
    host.write_table(host.fleet.peers(host), 17)
    done = _command(host, "reload")
    assert (done.returncode, done.stdout) == (0, "1 peers, revision 17\n")
    (host.files / "table.json").write_text("[]")
    assert "table" in _fails(host, "reload")
    assert host.ask("status")["table"]["revision"] == 17


def test_a_signal_makes_it_read_its_table(host: RelayHost) -> None:
    host.write_table(host.fleet.peers(host), 18)
    assert host.carrier
    host.carrier.process.send_signal(signal.SIGHUP)
    wait(lambda: host.ask("status")["table"]["revision"] == 18, "the table")


@pytest.mark.parametrize(
    "request_", [b"", b"{}\n", b"no JSON\n", b'{"command":"drop"}\n', b"x" * 9999]
)
def test_odd_requests(host: RelayHost, request_: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(host.control)
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answer = ""
        with contextlib.suppress(ConnectionResetError):  # it does not read all of a long one
            answer = connection.makefile().read()
    assert not answer or "error" in json.loads(answer)
    assert host.ask("status")
    assert all(host.fleet.lab.ping_matrix().values())


def test_who_asks_and_does_not_go_on_holds_nothing_up(host: RelayHost) -> None:
    lazy = []
    try:
        for dummy in range(3):
            lazy.append(socket.socket(socket.AF_UNIX))
            lazy[-1].connect(host.control)
        assert host.ask("status", timeout=10)
        assert all(host.fleet.lab.ping_matrix().values())
    finally:
        for each in lazy:
            each.close()


def test_the_end(host: RelayHost) -> None:
    """Device and route stay. The control socket is in a folder of root's, so it stays as well until
    the next relay puts its own there; asking says that nobody answers."""
    carrier = host.carrier
    assert carrier
    routes = host.host.exec(["ip", "route"]).stdout
    assert carrier.stop() == 0, carrier.said()
    assert not netns_pids([host.host.netns])
    assert host.host.exec(["ip", "route"]).stdout.replace(" linkdown", "") == routes
    assert "/run/relay/control" in _fails(host, "status")
    assert "Traceback" not in carrier.said()
    host.carrier = None
    host.run_relay()
    assert host.ask("status")


def test_a_device_that_goes_away(host: RelayHost) -> None:
    carrier = host.carrier
    assert carrier
    host.ip("link del " + DEVICE)
    assert wait(lambda: carrier.process.poll() is not None, "the relay's end")
    assert carrier.process.returncode == 1
    assert DEVICE in carrier.said()
    assert "Traceback" not in carrier.said()
    assert not netns_pids([host.host.netns])
    assert DEVICE in _fails(host, "run"), "and it does not make one"
    assert host.host.exec(["ip", "link", "show", DEVICE]).returncode == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"listen": "172.21.0.99"}, "172.21.0.99"),
        ({"device": "eth0"}, "eth0"),
        ({"device": "lo"}, "lo"),
        ({"device": "cni0"}, "cni0"),
        ({"user": "nobody-at-all"}, "nobody-at-all"),
        ({"control": "/proc/control"}, "/proc/control"),
    ],
)
def test_what_it_cannot_begin_with(host: RelayHost, change: dict[str, t.Any], named: str) -> None:
    host.stop()
    host.configure(**change)
    assert named in _fails(host, "run")


def test_a_port_that_is_taken(host: RelayHost) -> None:
    host.stop()
    with udp_socket(host.host, PORT):
        assert str(PORT) in _fails(host, "run")


@pytest.mark.parametrize("text", ["", "[]", '{"device": "flannel0"}', '{"mtu": "x"}'])
def test_settings_that_are_no_good(host: RelayHost, text: str) -> None:
    host.stop()
    (host.files / "settings.json").write_text(text)
    assert "settings.json" in _fails(host, "run")


def test_no_table_is_no_peers(host: RelayHost) -> None:
    """It begins all the same, says so, and takes one when there is one."""
    host.stop()
    (host.files / "table.json").unlink()
    host.run_relay()
    assert host.ask("status")["table"]["peers"] == 0
    assert "table.json" in host.said()
    host.reload(host.fleet.peers(host))
    assert all(host.fleet.lab.ping_matrix().values())


def test_a_device_without_several_queues(host: RelayHost) -> None:
    """One worker does, whatever the settings say."""
    host.device("user", USER, "vnet_hdr")
    host.configure(workers=3)
    host.write_table(host.fleet.peers(host))
    host.run_relay()
    assert host.ask("status")["workers"] == 1
    assert all(host.fleet.lab.ping_matrix().values())


def test_the_device_in_use(host: RelayHost) -> None:
    """Two relays at once: the second is told."""
    assert str(PORT) in _fails(host, "run")
    assert host.ask("status")
    assert all(host.fleet.lab.ping_matrix().values())
