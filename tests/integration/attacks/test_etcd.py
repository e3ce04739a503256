# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Members of etcd that hang or are cut off, and ways to them that swallow what etcd has to tell.

Nobody need want this: a full disk, a frozen virtual machine, a firewall that was reloaded will do.
The host has to come back to a member that works by itself, and to say meanwhile that it is not
connected. The clusters are real ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import EtcdError
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.watching import (
    WatchingClient,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync import watch_check
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.watch_check import (
    WatchBehind,
    WatchCheck,
)

from tests.integration.etcd.test_budget import start
from tests.integration.etcd_server import EtcdServers
from tests.integration.hostile_etcd import HostileEtcd, plain
from tests.integration.overlay import PREFIX
from tests.integration.programs import SUBNETS, Peer, Program, Programs, peer, wait
from tests.lab import Lab
from tests.lab.waiting import PATIENCE


@pytest.fixture(scope="module")
def cluster(lab_factory: t.Callable[..., Lab]) -> t.Iterator[Programs]:
    """Three hosts that do not compare by themselves, and an etcd of three members."""
    made = Programs(lab_factory(hosts=3, etcd=3))
    try:
        etcd = {"endpoints": made.etcd.endpoints, "timeout": 5}
        made.started(check_interval=3600, etcd=etcd)
        yield made
    finally:
        made.close()


@pytest.fixture
def program(cluster: Programs) -> t.Iterator[Program]:
    """The first host, watching; afterwards all is right again."""
    yield cluster.all[0]
    cluster.etcd.wait()
    cluster.clear()
    cluster.settle()


def watched(cluster: Programs, program: Program) -> int:
    """The member that the host watches at now: as in a status that has a revision of now."""
    revision = cluster.inside(cluster.client.put, PREFIX + "/flatnet/test", "")
    wait(lambda: program.told("revision") >= revision and program.told("connected"), "a watch")
    endpoint = program.told("endpoint")
    return next(each for each in cluster.etcd.members if cluster.etcd.endpoint(each) == endpoint)


def others(cluster: Programs, silent: int) -> list[str]:
    return [cluster.etcd.endpoint(each) for each in cluster.etcd.members if each != silent]


def join(cluster: Programs, silent: int, joining: Peer) -> None:
    """Write a lease by way of the members that work."""
    working = others(cluster, silent)

    def write() -> bool:
        # What is forwarded to a leader that hangs is lost, and may be written again.
        with WatchingClient(working) as client, contextlib.suppress(EtcdError):
            return client.put(SUBNETS + joining.name, joining.value) > 0
        return False

    wait(lambda: cluster.inside(write), "a lease is written")


def comes_back(cluster: Programs, program: Program, silent: int, joining: Peer) -> set[bool]:
    """A peer that joins at the other members is reached, and the status tells of one of those.

    Returns what the status said of being connected until then.
    """
    join(cluster, silent, joining)
    told: set[bool] = set()

    def reached() -> bool:
        told.add(program.told("connected"))
        return joining.subnet in program.ip("route show")

    begin = time.monotonic()
    wait(reached, "the route of a peer that joined")
    print("reached after %.1f s" % (time.monotonic() - begin))
    working = others(cluster, silent)
    wait(lambda: program.told("endpoint") in working, "a watch at another member")
    wait(lambda: program.told("errors") == [], "an end of errors")
    return told


@contextlib.contextmanager
def dropped(namespace: str, rules: t.Iterable[str]) -> t.Iterator[None]:
    """Drop what the rules, of the chains ``in`` and ``out``, match in a namespace of the lab."""
    nft = ["nsenter", "--net=/run/netns/" + namespace, "--", "nft"]
    lines = ["add table inet attack"]
    for each in ("in", "out"):
        hook = "type filter hook %sput priority 0" % each
        lines.append("add chain inet attack %s { %s; }" % (each, hook))
    lines += ["add rule inet attack %s drop" % rule for rule in rules]
    subprocess.run([*nft, "-f", "-"], input="\n".join(lines) + "\n", text=True, check=True)
    try:
        yield
    finally:
        subprocess.run([*nft, "delete table inet attack"], check=True)


def test_a_member_that_hangs(cluster: Programs, program: Program) -> None:
    """Item: one hung member of three. Its machine is frozen; its connections stand."""
    silent = watched(cluster, program)
    listings = program.told("listings")
    (pid,) = cluster.etcd.pids(silent)
    os.kill(pid, signal.SIGSTOP)
    try:
        told = comes_back(cluster, program, silent, peer(1))
    finally:
        os.kill(pid, signal.SIGCONT)
    # Before it had found another one, it did not say that all is well.
    assert False in told
    # The silence may be that of a loaded etcd, which a fleet that lists would load more.
    assert program.told("listings") == listings


def test_a_member_that_is_cut_off_from_the_others(cluster: Programs, program: Program) -> None:
    """Item: a member in the minority, whose watch stands and delivers nothing."""
    silent = watched(cluster, program)
    peers = ["in tcp dport 2380", "in tcp sport 2380", "out tcp dport 2380", "out tcp sport 2380"]
    listings = program.told("listings")
    with dropped(cluster.etcd.netns(silent), peers):
        comes_back(cluster, program, silent, peer(2))
    assert program.told("listings") == listings


def test_a_member_that_the_host_is_cut_off_from(cluster: Programs, program: Program) -> None:
    """Item: a member that is gone for this host alone, without a word."""
    silent = watched(cluster, program)
    address = cluster.etcd.endpoint(silent).split("//")[1].split(":")[0]
    rules = ["in ip saddr %s" % address, "out ip daddr %s" % address]
    with dropped(program.netns, rules):
        assert False in comes_back(cluster, program, silent, peer(3))


def test_a_way_that_forgets_its_connections(cluster: Programs, program: Program) -> None:
    """Item: a firewall between, reloaded, swallows what stands; new connections pass."""
    silent = watched(cluster, program)
    address = cluster.etcd.endpoint(silent).split("//")[1].split(":")[0]
    line = ["ss", "-tnH", "dst", address]
    found = program.host.exec(line, check=True).stdout.splitlines()
    ports = ", ".join(each.split()[3].rpartition(":")[2] for each in found)
    assert ports
    with dropped(program.netns, ["in tcp dport { %s }" % ports, "out tcp sport { %s }" % ports]):
        join(cluster, silent, peer(4))
        wait(lambda: peer(4).subnet in program.ip("route show"), "the peer's route")
        wait(lambda: program.told("connected"), "a watch")


# Without a whole host: what is between it and its member is this process.


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[EtcdServers]:
    with EtcdServers(tmp_path_factory.mktemp("etcd"), members=3) as servers:
        yield servers


class Swallowing:
    """A TCP proxy that passes on everything, until it is told which connections to swallow."""

    def __init__(self, url: str) -> None:
        host, _colon, port = url.rpartition("//")[2].partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self._listener.getsockname()[1]
        # A connection is swallowed from when its path is in here.
        self.swallowed: set[bytes] = set()
        self._stop, self._stopped = os.pipe()

    def __enter__(self) -> Swallowing:
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        os.write(self._stopped, b".")
        self._thread.join()
        self._listener.close()
        os.close(self._stop)
        os.close(self._stopped)

    def _serve(self) -> None:
        pairs: dict[socket.socket, socket.socket] = {}
        paths: dict[socket.socket, bytes] = {}
        while True:
            readable = select.select([self._stop, self._listener, *pairs], [], [])[0]
            if self._stop in readable:
                break
            for each in readable:
                if each is self._listener:
                    client = self._listener.accept()[0]
                    server = socket.create_connection(self._target)
                    pairs[client], pairs[server] = server, client
                elif each in pairs:
                    data = each.recv(65536)
                    other = pairs[each]
                    if data.startswith(b"POST "):
                        paths[other] = data.split(b" ")[1]
                    if not data:
                        for both in (each, other):
                            pairs.pop(both)
                            both.close()
                    elif paths.get(each) not in self.swallowed:
                        other.sendall(data)
        for left in pairs:
            left.close()


def look(watching: WatchCheck, told: int, seconds: float) -> None:
    """Watch over a watch as the service does, for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        watching.look(told)
        time.sleep(0.01)


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[WatchCheck]:
    """With all times a twentieth."""
    for name in ("INTERVAL", "PATIENCE", "LONGEST_PATIENCE"):
        monkeypatch.setattr(watch_check, name, getattr(watch_check, name) / 20)
    made = WatchCheck()
    yield made
    made.end()


def test_a_proxy_that_swallows_the_watch_alone(members: EtcdServers, watching: WatchCheck) -> None:
    """Item: a watch that stands, at a member that answers, and never tells anything again."""
    with Swallowing(members.urls[0]) as proxy, WatchingClient([proxy.url]) as client:
        revision = client.put("/overlay/a", b"")
        with client.watch("/overlay/", revision + 1) as watch:
            watching.begin(watch, client.pulse(watch.endpoint, "/overlay/config"))
            look(watching, revision, 1)
            proxy.swallowed.add(b"/v3/watch")
            now = client.put("/overlay/b", b"")
            assert watch.read(1) is None
            with pytest.raises(
                WatchBehind, match="told revision %d, and .* at %d" % (revision, now)
            ):
                look(watching, revision, PATIENCE)
        client.avoid(proxy.url)


def test_an_etcd_that_others_write_to_costs_less_and_less(
    members: EtcdServers, watching: WatchCheck
) -> None:
    """Item: comparing revisions is cheap. Somebody else's writes make a watch look behind."""
    with WatchingClient(members.urls) as client:
        revision = client.put("/overlay/a", b"")
        times: list[float] = []
        for _round in range(4):
            with client.watch("/overlay/", revision + 1) as watch:
                watching.begin(watch, client.pulse(watch.endpoint, "/overlay/config"))
                client.put("/others", b"")
                begin = time.monotonic()
                with pytest.raises(WatchBehind):
                    look(watching, revision, PATIENCE)
                times.append(time.monotonic() - begin)
        # 0.2 s, and twice as long each time.
        assert times[3] > 8 * watch_check.PATIENCE
        # A watch that has told all makes it watchful again.
        with client.watch("/overlay/", revision + 1) as watch:
            watching.begin(watch, client.pulse(watch.endpoint, "/overlay/config"))
            look(watching, client.get("/overlay/a").revision, 3 * watch_check.INTERVAL)
            client.put("/others", b"")
            begin = time.monotonic()
            with pytest.raises(WatchBehind):
                look(watching, revision, PATIENCE)


def test_a_quiet_watch_is_left_alone(members: EtcdServers, watching: WatchCheck) -> None:
    """Item: what has nothing to tell is not taken for what does not tell."""
    with WatchingClient(members.urls) as client:
        revision = client.put("/overlay/a", b"")
        with client.watch("/overlay/", revision + 1) as watch:
            pulse = client.pulse(watch.endpoint, "/overlay/config")
            watching.begin(watch, pulse)
            look(watching, revision, 3)
            assert watching.answered
            client.put("/overlay/b", b"")
            response = watch.read(30)
            assert response is not None
            look(watching, response.revision, 1)


@pytest.mark.parametrize("how", ["hangs", "is killed"])
def test_a_member_that_does_not_answer_is_told_at_once_and_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Item: the status says the truth before the watch is given up."""
    monkeypatch.setattr(watch_check, "INTERVAL", 0.5)
    monkeypatch.setattr(watch_check, "QUIET", 0.5)
    watching = WatchCheck()
    with (
        EtcdServers(tmp_path) as servers,
        WatchingClient(servers.urls, timeout=3) as client,
        client.watch("/", 1) as watch,
    ):
        watching.begin(watch, client.pulse(watch.endpoint, "/a"))
        look(watching, 1 << 60, 1)
        member = servers.members[0]
        member.pause() if how == "hangs" else member.kill()
        with pytest.raises(EtcdError, match=json.dumps(watch.endpoint).strip('"')):
            look(watching, 1 << 60, PATIENCE)
        if how == "hangs":
            assert not watching.answered
            member.resume()
    watching.end()


HOSTILE = {
    "infinity": b'{"header":{"revision":1e999}}',
    "nan": b'{"header":{"revision":NaN}}',
    "digits": b'{"header":{"revision":%s}}' % (b"9" * 100_000),
    "nested": b"[" * 100_000,
    "nested refusals": b'{"error":' * 100_000,
    "a refusal of a refusal": b'{"error":{"error":{"error":"x"}}}',
    "an endless count": b'{"header":{"revision":"1"},"count":"1000000","kvs":[]}',
    "another key": b'{"header":{"revision":"1"},"count":"1","kvs":[{"key":"eA==","value":"eA=="}]}',
    "escapes": b'{"code":9,"message":"\\u001b[2J\\nfaked","error":"x"}',
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("command", ["once", "watch"])
def test_a_server_that_is_not_etcd_is_one_line_in_the_log(
    tmp_path: Path, name: str, command: str
) -> None:
    """Item: whoever answers at an endpoint sends what he likes; the program says so and lives."""
    with HostileEtcd(lambda _path, _body: plain(HOSTILE[name])) as server:
        process = start(tmp_path, command, [server.url])
        try:
            if command == "once":
                assert process.wait(PATIENCE) == 1
            else:
                wait(lambda: server.url in (tmp_path / "log").read_text(), "a line")
                wait(lambda: len(server.requests) > 5, "another try")
                assert process.poll() is None
        finally:
            process.terminate()
            process.wait(PATIENCE)
    said = (tmp_path / "log").read_text()
    assert len(said.splitlines()) == 1
    assert said.strip().isprintable()
    assert server.url in said
