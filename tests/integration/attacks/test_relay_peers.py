# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on a relay by those who have a peer's address, with root's rights there or without."""

from __future__ import annotations

import itertools
import socket
import struct
import time
import typing as t

import pytest

from tests.lab import Lab
from tests.lab.waiting import wait
from tests.relay.hosts import PORT, Fleet, Peer, RelayHost
from tests.relay.packets import udp
from tests.relay.sockets import UDP_SEGMENT, Frames, Wire, inside, silence, udp_socket

# The attacker's host has so many addresses, each of a peer, so that each worker hears some.
ADDRESSES = ["172.21.7.%d" % number for number in range(1, 9)]
BURST = 43_000
TOGETHER = 60
GOOD = udp("10.5.2.9", "10.5.1.9", 1, 2, b"payload" * 10)


class Site(t.NamedTuple):
    """A relay, and the host of a peer that attacks it."""

    host: RelayHost
    pod: Frames
    wire: Wire

    def pid(self) -> int:
        return int(self.host.ask("status", 30)["pid"])

    def alive(self) -> bool:
        """A good packet of a peer arrives."""
        self.pod.clear()
        self.wire.send(GOOD)
        return bool(self.pod.received(1, longest=1))

    def dropped(self, reason: str) -> int:
        return self.host.drops()[reason]


@pytest.fixture(scope="module", params=[True, False], ids=["vectors", "packets"])
def site(request: pytest.FixtureRequest, lab_factory: t.Callable[..., Lab]) -> t.Iterator[Site]:
    with Fleet(lab_factory(hosts=2, etcd=0), relays=1) as fleet:
        host, there = fleet.hosts[0], fleet.bare[0]
        for address in ADDRESSES:
            there.exec(["ip", "addr", "add", address + "/16", "dev", "eth0"], check=True)
        peers = [Peer("10.5.2.0/24", there.address, 1)]
        peers += [
            Peer("10.5.%d.0/24" % number, address, 1)
            for number, address in enumerate(ADDRESSES, start=10)
        ]
        host.start_relay(peers, vector=request.param, workers=2)
        silence(host.pod)
        with Frames(host.pod) as pod, Wire(there, PORT, host.address) as wire:
            yield Site(host, pod, wire)


def _report(worker: int, sent: int, arrived: int) -> bytes:
    """A report on vectors, as a receiver of them makes it: see vector_format.py."""
    return struct.pack("!BBBBII", 0xF1, 0xFF, 0, worker, sent & 0xFFFFFFFF, arrived & 0xFFFFFFFF)


def test_reports_reach_the_worker_that_they_are_about(site: Site) -> None:
    """No attack, but what has to go on: all datagrams from one address come to one worker, and it
    passes on what is about the vectors of the other. Here, that nothing arrives."""
    vectors = site.host.ask("status")["settings"]["vector"]
    for port in range(1000, 1064):
        site.pod.send(udp("10.5.1.9", "10.5.2.9", port, 2, b""), site.host.mac())
    assert len(site.wire.received(64)) == 64, "which both workers have sent"
    sent = 0

    def told() -> bool:
        nonlocal sent
        sent += 1000
        site.wire.send(*(_report(worker, sent, 0) for worker in (0, 1)))
        peers = site.host.ask("status", 30)["peers"]
        modes = [each["mode"] for each in peers if "10.5.2.0/24" in each["subnets"]]
        # It is said if both workers do it.
        return modes == ["packets, fallen back" if vectors else "packets"]

    wait(told, "falling back")


def test_a_burst_of_reports_holds_nothing_up(site: Site) -> None:
    """Who: root of a peer's host. Means: 43,000 reports of 12 bytes on vectors, from each of some
    addresses, for each of the relay's workers and for some that it has not. Neither the main
    process nor a worker waits for another one because of them, or ends."""
    pid = site.pid()
    burst = [
        b"".join(_report(worker, number, number // 2) for worker in (0, 1, 0, 1, 0, 200))
        * (TOGETHER // 6)
        for number in range(8)
    ]
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 12))]
    with inside(site.host.fleet.bare[0]):
        senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for dummy in ADDRESSES]
    try:
        for each, address in zip(senders, ADDRESSES):
            each.bind((address, PORT))
        until = time.monotonic() + 60
        for number, each in zip(range(BURST // TOGETHER * len(senders)), itertools.cycle(senders)):
            each.sendmsg([burst[number % 8]], control, 0, (site.host.address, PORT))
            assert time.monotonic() < until
    finally:
        for each in senders:
            each.close()
    wait(site.alive, "a peer's packet")
    # With vectors off, all of them are; what got lost before it was received aside.
    wait(lambda: site.dropped("reports"), "those that are dropped")
    assert site.pid() == pid, site.host.said()
    site.host.check()
    assert "Traceback" not in site.host.said()


def test_only_the_relay_of_a_peer_speaks_for_it(site: Site) -> None:
    """Who: a local user of a peer's host, without rights. Means: datagrams from that host's address
    and another port than the relay's, as any program may send them, whose inner source is a pod
    there. None of them is delivered, nor is a vector or a report of theirs."""
    before = site.dropped("source_port")
    site.pod.clear()
    with udp_socket(site.host.fleet.bare[0]) as anybody:
        to = (site.host.address, PORT)
        assert anybody.getsockname()[1] != PORT
        for each in (GOOD, GOOD + b"", _report(0, 1000, 0), b"\xf1\x00" + bytes(40), b""):
            anybody.sendto(each, to)
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(GOOD)))]
        anybody.sendmsg([GOOD * 5], control, 0, to)
    wait(lambda: site.dropped("source_port") == before + 10, "the count of them")
    assert not site.pod.received()
    wait(site.alive, "what comes from the port")
