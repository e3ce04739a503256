# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Vectors without a network: frames in datagrams and back, and when packets are sent instead."""

from __future__ import annotations

import socket
import struct
import tracemalloc
import typing as t

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay import (
    vector_format,
    vector_sending,
    worker_reports,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.relay import judge
from tests.relay.flows import Flows
from tests.relay.packets import UDP, hop, partial
from tests.relay.worker import GSO_TCP4, GSO_UDP_L4, Frame, Worker

HERE, THERE = "10.5.1.9", "10.5.2.9"
PEER = "192.0.2.2"

seeds = st.integers(0, 1 << 30)


@given(seeds, st.randoms(use_true_random=False), st.booleans())
def test_a_vector_is_whole_again_in_any_order(seed: int, chance, singly: bool) -> None:  # type: ignore[no-untyped-def]
    packet, size = Flows(seed, THERE, HERE).offloaded()
    gso = GSO_UDP_L4 if packet[9] == UDP else GSO_TCP4
    with (
        Worker(("10.5.1.0/24", "192.0.2.1", 1), own="10.5.2.0/24") as there,
        Worker(("10.5.2.0/24", PEER, 1)) as here,
    ):
        sent, dummy = there.send(Frame(partial(packet), gso, size).to_bytes())
        parts = [found for found, dummy in sent]
        assert all(found[0] == vector_format.MAGIC for found in parts)
        assert all(len(found) <= 1472 for found in parts)
        come: list[Frame] = []
        if singly:
            # Half of them twice, and those in the middle of others.
            parts += parts[: len(parts) // 2]
            chance.shuffle(parts)
            for part in parts:
                come += here.receive(part, 0, PEER)
        else:
            for at in range(0, len(parts), 44):
                some = parts[at : at + 44]
                come += here.receive(b"".join(some), len(some[0]), PEER)
        assert come == [Frame(hop(partial(packet), 2), gso, size, True)]


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=9), st.booleans())
def test_no_datagram_hurts(found: list[bytes], vectors: bool) -> None:
    """Also such as claim to be parts of frames; nothing comes of them."""
    with Worker(("10.5.2.0/24", PEER, 1)) as worker:
        for each in found:
            packet = bytes([vector_format.MAGIC]) + each if vectors else each
            for frame in worker.receive(packet * 3, len(packet), PEER):
                assert judge.sound(frame.packet)
        worker.receiver.tick(1e12)


def _report(worker: int, sent: int, arrived: int) -> bytes:
    return struct.pack("!BBBBII", vector_format.MAGIC, 0xFF, 0, worker, sent, arrived)


@pytest.mark.parametrize("behind", [0, 3])
def test_reports_are_heard_whatever_they_came_with(behind: int) -> None:
    """A kernel joins datagrams of one length, and a shorter last one, to what it gives at once: so
    reports come joined to each other, or to the parts of a frame before them."""
    part = vector_format.HEADER.pack(vector_format.MAGIC, 0, 60000, 1)
    parts = b"".join(
        bytes([vector_format.MAGIC, n]) + part[2:] + bytes(1464) for n in range(behind)
    )
    with Worker(("10.5.2.0/24", PEER, 1)) as worker:
        sending = worker.router.peers[PEER].vectors
        assert sending
        reports = [_report(0, 1000, 1000), _report(0, 2000, 1000)][-1 if behind else 0 :]
        if behind:
            worker.receive(_report(0, 1000, 1000), 0, PEER)
        worker.receive(parts + b"".join(reports), 1472 if behind else 12, PEER)
        assert sending.fallbacks, "half of a thousand frames got lost"
        assert not worker.drops


def test_reports_on_vectors_that_nobody_sent() -> None:
    with Worker(("10.5.2.0/24", PEER, 0)) as worker:
        for joined in (1, 5):
            worker.receive(_report(0, 1000, 0) * joined, 12, PEER)
        assert worker.drops == {"reports": 6}


def test_what_waits_for_the_rest_is_bounded() -> None:
    """Frames that are never complete, from many peers: memory, and what is forgotten."""
    peers = [("10.5.%d.0/24" % n, "192.0.2.%d" % n, 1) for n in range(2, 200)]
    with Worker(*peers) as worker:
        for number in range(60):
            for dummy, address, dummy in peers:
                part = vector_format.HEADER.pack(vector_format.MAGIC, 0, 60000, number) + bytes(
                    1400
                )
                assert worker.receive(part, 0, address) == []
        assert worker.receiver._waiting.size <= 16 << 20
        worker.receiver.tick(1e12)
        assert worker.receiver._waiting.size == 0


def test_lengths_that_a_peer_chooses_take_no_memory() -> None:
    """Parts of every length come joined, so that their views could be kept for each length."""
    with Worker(("10.5.2.0/24", PEER, 1)) as worker:
        tracemalloc.start()
        try:
            for length in [*range(1472, 8, -1)] * 2:
                part = vector_format.HEADER.pack(vector_format.MAGIC, 255, 60000, length)
                worker.receive(part.ljust(length, b"x") * 2, length, PEER)
            worker.receiver.tick(1e12)
            assert tracemalloc.get_traced_memory()[0] < 4 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("silent", [False, True])
def test_a_peer_that_loses_vectors_gets_packets(silent: bool) -> None:
    """Also if it says nothing at all; and vectors again after a while, longer each time."""
    now = 100.0
    sending = vector_sending.Sending(now)
    pauses: list[float] = []
    sent = 0
    sending.heard(0, 0, now)
    while len(pauses) < 4:
        begin = now
        while not sending.paused:
            assert now < begin + 10
            sending.number()
            sent += 1
            if not silent:
                sending.heard(sent, sent * 9 // 10, now)
            now += 0.05
            sending.tick(now)
        begin = now
        while sending.paused:
            now += 0.1
            sending.tick(now)
        pauses.append(round(now - begin))
    assert pauses == [10, 20, 40, 80]


def test_a_peer_that_loses_nothing_keeps_its_vectors() -> None:
    now = 100.0
    sending = vector_sending.Sending(now)
    for number in range(1, 2000):
        sending.number()
        sending.heard(number, number, now)
        now += 0.05
        sending.tick(now)
        assert not sending.paused


def _send(sending: vector_sending.Sending, frames: int) -> None:
    for dummy in range(frames):
        sending.number()


def test_many_frames_at_once_are_no_silence() -> None:
    """A stream that is there when a table comes, as after a restart: a peer has had no time to
    report anything at the first look."""
    sending = vector_sending.Sending(100.0)
    _send(sending, 1000)
    sending.tick(100.2)
    assert not sending.paused
    for tenth in range(1003, 1035):
        sending.tick(tenth / 10)
    assert sending.paused, "that is silence"


def test_a_sender_that_stood_still_waits_anew() -> None:
    """Reports may have come while it had no processor."""
    sending = vector_sending.Sending(100.0)
    _send(sending, 1000)
    sending.tick(100.2)
    sending.tick(110.0)
    assert not sending.paused
    for tenth in range(1100, 1135):
        sending.tick(tenth / 10)
    assert sending.paused


@pytest.mark.parametrize("lost", [0, 500])
def test_a_peer_that_was_only_late_is_sent_vectors_again(lost: int) -> None:
    """One that had no processor for some seconds; unless they got lost as well."""
    sending = vector_sending.Sending(100.0)
    sending.heard(0, 0, 100.0)
    _send(sending, 1000)
    for tenth in range(1000, 1040):
        sending.tick(tenth / 10)
    assert sending.paused
    sending.heard(1000, 1000 - lost, 104.0)
    assert sending.paused == bool(lost)


def test_frames_that_others_overtook_are_not_lost() -> None:
    """They were sent, and have not arrived when a report is made; the next one has them."""
    sending = vector_sending.Sending(100.0)
    sending.heard(0, 0, 100.0)
    for turn in range(1, 9):
        sending.heard(32 * turn, 32 * turn - 2, 100.0 + turn / 4)
        assert not sending.paused
    sending.heard(32 * 9, 32 * 9 - 2 - 3, 103.0)
    assert sending.paused, "these are"


@pytest.mark.parametrize("dropped", [0, 7])
def test_what_the_own_queue_had_no_room_for_is_not_the_ways_fault(dropped: int) -> None:
    """A host without a processor for its relay: the report says so little as of none."""
    with Worker(("10.5.2.0/24", PEER, 1)) as worker:
        for number in range(0, 100, 2):
            worker.receive(
                vector_format.HEADER.pack(vector_format.MAGIC, 0, 60000, number) + bytes(1400),
                0,
                PEER,
            )
        worker.udp.dropped = dropped
        worker.receiver.tick(1e12)
        reports = [vector_format.read_report(memoryview(data)) for data, dummy in worker.udp.sent]
        assert reports == [(0, 99, 99 if dropped else 0)]
        assert worker.drops == ({"overrun": dropped} if dropped else {})


# --- between workers ------------------------------------------------------------------------------


@pytest.fixture
def boxes() -> t.Iterator[list[worker_reports.Box]]:
    """Of three workers, all in this process."""
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    pairs = [socket.socketpair(socket.AF_UNIX, kind) for dummy in range(3)]
    writing = [each for dummy, each in pairs]
    yield [
        worker_reports.Box(number, reading, writing)
        for number, (reading, dummy) in enumerate(pairs)
    ]
    for pair in pairs:
        for each in pair:
            each.close()


def test_the_latest_report_of_each_peer_is_passed_on(boxes: list[worker_reports.Box]) -> None:
    one, other, third = boxes
    for sent in range(1000):
        assert one.put(1, "192.0.2.2", sent, sent)
    assert one.put(1, "192.0.2.3", 5, 0xFFFFFFFF)
    assert one.put(2, "192.0.2.3", 6, 6)
    assert not one.put(3, "192.0.2.2", 1, 1), "there is no such worker"
    assert one.send() == 0
    assert sorted(other.read()) == [("192.0.2.2", 999, 999), ("192.0.2.3", 5, 0xFFFFFFFF)]
    assert list(third.read()) == [("192.0.2.3", 6, 6)]
    assert one.send() == 0
    assert list(other.read()) == []


def test_nobody_waits_for_one_who_does_not_read(boxes: list[worker_reports.Box]) -> None:
    one, other, dummy = boxes
    lost = 0
    for turn in range(1000):
        for number in range(50):
            one.put(1, "192.0.2.%d" % number, turn, turn)
        lost += one.send()
    came = len(list(other.read()))
    assert came > 0
    assert 0 < lost < 50_000
    assert lost % 50 == 0
