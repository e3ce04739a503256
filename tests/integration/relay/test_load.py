# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Under load: tables change ten times a second, and relays are killed.

``FLATNET_LOAD`` is how many seconds each load lasts; `make fuzz` takes a minute.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
import typing as t

import pytest

from tests.lab import Lab, Pod
from tests.lab.system import netns_pids
from tests.lab.waiting import wait
from tests.relay.hosts import Fleet, Peer, RelayHost, told
from tests.relay.sockets import udp_socket
from tests.relay.traffic import flood

SECONDS = float(os.environ.get("FLATNET_LOAD", "5"))
ALONE = SECONDS >= 30
EVERY = 0.1
RATE = 1000
# Bytes a second: at full speed the kernel's queues lose some at any time, whatever else happens.
STREAM = 50 << 20


class Lost(t.NamedTuple):
    """What was lost on the way from one pod to another, and where."""

    sent: int
    probes: int
    dropped: int  # by the two relays
    queues: int  # by queues of the two kernels
    gap: float  # seconds without a probe


class Probe:
    """Numbered datagrams from one pod to another, a thousand a second, for as long as it lasts."""

    def __init__(self, one: Pod, other: Pod) -> None:
        self.sent = 0
        self.came: list[float] = []
        self._ended = threading.Event()
        self._sender, self._receiver = udp_socket(one), udp_socket(other)
        self._receiver.settimeout(0.5)
        self._work = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def __enter__(self) -> Probe:
        for each in self._work:
            each.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ended.set()
        for each in self._work:
            each.join()
        self._sender.close()
        self._receiver.close()

    def _send(self) -> None:
        to = self._receiver.getsockname()
        begin = time.monotonic()
        while not self._ended.is_set():
            while self.sent < (time.monotonic() - begin) * RATE:
                self._sender.sendto(self.sent.to_bytes(4, "big") * 20, to)
                self.sent += 1
            time.sleep(0.5 / RATE)

    def _receive(self) -> None:
        while True:
            try:
                self._receiver.recv(2048)
            except TimeoutError:
                if self._ended.is_set():
                    return
                continue
            self.came.append(time.monotonic())

    def gap(self, since: float = 0) -> float:
        """The longest time without one."""
        times = [since, *(each for each in self.came if each > since)] if since else self.came
        return max(after - before for before, after in zip(times, times[1:]))


@pytest.fixture(scope="module", params=["relay", "vector"])
def fleet(request: pytest.FixtureRequest, lab_factory: t.Callable[..., Lab]) -> t.Iterator[Fleet]:
    with Fleet(lab_factory(hosts=3, etcd=0), relays=3) as made:
        made.carry(*[request.param] * 3)
        yield made


def _queues(host: RelayHost) -> int:
    """What the kernel dropped because something was full."""
    link = host.host.exec(["cat", "/sys/class/net/flannel0/statistics/tx_dropped"]).stdout
    snmp = host.host.exec(["cat", "/proc/net/snmp"]).stdout
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Udp:"))
    return int(link) + int(values[names.index("RcvbufErrors")])


def _dropped(host: RelayHost) -> int:
    return sum(
        count for reason, count in host.drops().items() if reason not in ("not_ipv4", "overrun")
    )


def _load(one: RelayHost, other: RelayHost, meanwhile: t.Callable[[], None]) -> Lost:
    """A TCP stream that fills no queue, and the probe, while something is done."""
    hosts = (one, other)
    before = [(_dropped(each), _queues(each)) for each in hosts]
    with flood(one.pod, other.pod, STREAM) as seconds, Probe(one.pod, other.pod) as probe:
        meanwhile()
        _goes_on(seconds)
        wait(lambda: len(probe.came) > 1, "probes")
    after = [(_dropped(each), _queues(each)) for each in hosts]
    assert not ALONE or all(seconds[:-1]), "the stream stood still: %s" % seconds
    return Lost(
        probe.sent,
        probe.sent - len(probe.came),
        sum(b[0] - a[0] for a, b in zip(before, after)),
        sum(b[1] - a[1] for a, b in zip(before, after)),
        probe.gap(),
    )


def _goes_on(seconds: list[int]) -> None:
    """More of the stream comes."""
    before = sum(seconds)
    wait(lambda: sum(seconds) > before, "more of the stream")


def _resident(host: RelayHost) -> int:
    """Kilobytes of memory of the relay's processes."""
    total = 0
    for pid in _processes(host):
        with open("/proc/%d/status" % pid) as file:
            found = re.search(r"VmRSS:\s+(\d+)", file.read())
            total += int(found[1]) if found else 0
    return total


def _processes(host: RelayHost) -> list[int]:
    """The relay's, the main one first."""
    main = host.ask("status")["pid"]
    found = []
    for pid in netns_pids([host.host.netns]):
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            if b"flatnet.relay.command" in file.read():
                found.append(pid)
    return sorted(found, key=lambda pid: (pid != main, pid))


def test_other_peers_come_and_go(fleet: Fleet) -> None:
    one, other, third = fleet.hosts
    vector = int(one.ask("status")["settings"]["vector"])
    chance = random.Random(1)
    stay = {each: [Peer(o.subnet, o.address, vector) for o in (one, other) if o is not each]
            for each in (one, other)}  # fmt: skip
    # Small subnets, since there are to be many; and one of a host that is there.
    others = [
        Peer("10.5.%d.%d/28" % (100 + number // 16, number % 16 * 16), "172.21.%d.%d" % (
            100 + number // 200, 1 + number % 200), number % 2)
        for number in range(1000)
    ]  # fmt: skip
    others.append(Peer(third.subnet, third.address, vector))
    reloads = 0
    there = set(chance.sample(others, 500))

    def change() -> None:
        nonlocal reloads
        while reloads < SECONDS / EVERY:
            begin = time.monotonic()
            # A few of them, and now and then nearly all.
            for each in chance.sample(others, chance.choice([1, 5, 50] * 10 + [1001])):
                there.symmetric_difference_update([each])
            for host in (one, other):
                answer = host.reload([*there, *stay[host]], reloads)
                assert (answer["revision"], answer["peers"]) == (reloads, len(there) + 1)
            reloads += 1
            time.sleep(max(0, begin + EVERY - time.monotonic()))

    change_nothing = _load(one, other, lambda: time.sleep(SECONDS))
    memory = _resident(one)
    changed = _load(one, other, change)
    print(change_nothing, changed, reloads)
    assert changed.dropped == 0, told(one.ask("status"))
    both = (change_nothing, changed)
    # Beside other tests a relay may wait for a processor until a queue is full, and for long; alone
    # it may not.
    if ALONE:
        assert changed.probes <= max(2 * change_nothing.probes, 0.0005 * changed.sent), both
        assert changed.gap < max(2 * change_nothing.gap, 0.3), both
    else:
        assert changed.probes - changed.queues <= 0.05 * changed.sent, both
    grown = _resident(one) - memory
    assert grown < 4096, "%d kB more" % grown


@pytest.mark.parametrize("what", ["whole table", "broken table", "no table"])
def test_a_table_that_is_no_good_changes_nothing(fleet: Fleet, what: str) -> None:
    """The one before stays in use, and the relay says so."""
    one, other, dummy = fleet.hosts
    table = one.files / "table.json"
    good = [Peer(other.subnet, other.address, 0)]
    one.reload(good, 5)
    if what == "no table":
        table.unlink()
    else:
        table.write_text('{"revision": 6, "peers": [["10.5.2.0/24"' if "broken" in what else "[]")
    answer = one.ask("reload")
    assert "error" in answer
    found = one.ask("status")["table"]
    assert (found["revision"], found["peers"]) == (5, 1)
    assert one.pod.exec(["ping", "-c1", "-W60", other.pod.address]).returncode == 0
    assert one.reload(good, 7)["revision"] == 7
    assert not one.ask("status")["table_error"]


@pytest.mark.parametrize("victim", ["all", "main", "worker"])
def test_killed_under_load(fleet: Fleet, victim: str) -> None:
    """Somebody starts it again; the device and its route were there all the time, and streams go
    on, unaware of anything but a pause."""
    one, other, dummy = fleet.hosts
    other.supervise()
    one.wait_ready()
    routes = other.host.exec(["ip", "route"]).stdout
    with flood(one.pod, other.pod) as seconds, Probe(one.pod, other.pod) as probe:
        _goes_on(seconds)
        wait(lambda: probe.came, "a probe")
        processes = _processes(other)
        chosen = {"all": processes, "main": processes[:1], "worker": processes[1:2]}[victim]
        killed = time.monotonic()
        for pid in chosen:
            os.kill(pid, signal.SIGKILL)
        new = wait(lambda: _another(other, processes[0]), "the relay")
        back = wait(lambda: probe.came and probe.came[-1] > killed + 0.01 and _since(probe, killed))
        assert not ALONE or back - killed < 2, back - killed
        assert new not in processes
        # The device has no carrier until a worker of the new relay has opened it.
        wait(lambda: other.host.exec(["ip", "route"]).stdout == routes, "the routes as before")
        # What was under way is sent again.
        for dummy in range(3):
            _goes_on(seconds)
    print("%s: %.3f s, %s" % (victim, back - killed, [each >> 20 for each in seconds]))
    other.unsupervise()


def _another(host: RelayHost, before: int) -> int:
    """The pid of a relay that is not the one before; 0 if there is none yet."""
    try:
        pid: int = host.ask("status", 0.5)["pid"]
    except OSError:
        return 0
    return 0 if pid == before else pid


def _since(probe: Probe, moment: float) -> float:
    """When probes came again after the longest pause since then; 0 if there was none yet."""
    times = [moment, *(each for each in probe.came if each > moment)]
    pauses = [(after - before, after) for before, after in zip(times, times[1:])]
    return max(pauses)[1] if pauses else 0
