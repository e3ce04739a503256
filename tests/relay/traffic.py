# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TCP and UDP between two pods through their kernels, and whether it comes as it was sent."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
import typing as t

from tests.lab import Pod
from tests.relay.sockets import UDP_SEGMENT, tcp_socket, udp_socket

_TCP_MAXSEG, _SO_OOBINLINE, _SO_MAX_PACING_RATE = 2, 10, 47


class Tuning(t.NamedTuple):
    """How one connection is used. ``maxseg``: 0 leaves it to the kernel; ``urgent``: how many bytes
    of the stream are sent as such."""

    maxseg: int = 0
    nodelay: bool = False
    urgent: int = 0
    write: int = 1 << 16

    @classmethod
    def draw(cls, chance: random.Random) -> Tuning:
        return cls(
            chance.choice([0, 0, 536, 537, 999, chance.randrange(88, 1432)]),
            chance.random() < 0.3,
            chance.choice([0, 0, 3]),
            chance.choice([1 << 16, 1 << 16, 5000, 700]),
        )


PLAIN = Tuning()


def sysctls(pod: Pod, **values: int) -> None:
    """Of IPv4 in the pod."""
    words = ["net.ipv4.%s=%d" % each for each in values.items()]
    pod.exec(["sysctl", "-qw", *words], check=True)


def exchange(
    one: Pod, other: Pod, size: int, seed: int, tuning: Tuning = PLAIN, seconds: float = 60
) -> None:
    """Both send so many random bytes to each other, at once, over one connection, and compare."""
    chance = random.Random(seed)
    data = [chance.randbytes(size), chance.randbytes(size)]
    failures: list[str] = []
    with connection(one, other, tuning.maxseg, seconds) as ends:
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, _SO_OOBINLINE, 1)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, tuning.nodelay)
        work = [
            threading.Thread(target=_send, args=(ends[0], data[0], seed, tuning, failures)),
            threading.Thread(target=_send, args=(ends[1], data[1], seed + 1, tuning, failures)),
            threading.Thread(target=_compare, args=(ends[1], data[0], seed, failures)),
            threading.Thread(target=_compare, args=(ends[0], data[1], seed, failures)),
        ]
        for each in work:
            each.start()
        for each in work:
            each.join()
    assert not failures, (failures, tuning)


@contextlib.contextmanager
def connection(
    one: Pod, other: Pod, maxseg: int = 0, seconds: float = 60
) -> t.Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection from one pod to the other: both ends."""
    with tcp_socket(other) as listener, tcp_socket(one) as client:
        for each in (listener, client):
            each.settimeout(seconds)
            if maxseg:
                each.setsockopt(socket.IPPROTO_TCP, _TCP_MAXSEG, maxseg)
        listener.bind((other.address, 0))
        listener.listen()
        client.connect(listener.getsockname())
        served, dummy = listener.accept()
        with served:
            served.settimeout(seconds)
            yield client, served


def _send(end: socket.socket, data: bytes, seed: int, tuning: Tuning, failures: list[str]) -> None:
    chance = random.Random(seed)
    urgent = sorted(chance.randrange(len(data)) for dummy in range(tuning.urgent))
    at = 0
    try:
        while at < len(data):
            stop = at + chance.randint(1, tuning.write)
            if urgent and urgent[0] < stop:
                stop = urgent.pop(0)
                end.sendall(data[at:stop])
                end.sendall(data[stop : stop + 1], socket.MSG_OOB)
                stop += 1
            else:
                end.sendall(data[at:stop])
            at = stop
        end.shutdown(socket.SHUT_WR)
    except OSError as error:
        failures.append("sending %d of %d bytes: %s" % (at, len(data), error))


def _compare(end: socket.socket, data: bytes, seed: int, failures: list[str]) -> None:
    chance = random.Random(seed)
    at = 0
    try:
        while True:
            part = end.recv(chance.randint(1, 1 << 17))
            if not part:
                break
            if part != data[at : at + len(part)]:
                failures.append("other bytes at %d" % at)
                return
            at += len(part)
    except OSError as error:
        failures.append("receiving %d of %d bytes: %s" % (at, len(data), error))
        return
    if at != len(data):
        failures.append("%d of %d bytes" % (at, len(data)))


class Datagrams(t.NamedTuple):
    """What was sent, in order, and what came."""

    sent: list[bytes]
    came: list[bytes]


def datagrams(one: Pod, other: Pod, count: int, seed: int, most: int = 1444) -> Datagrams:
    """Random datagrams, each told from all others by its first bytes, many of them handed to the
    kernel together; slowly enough for the slowest way."""
    chance = random.Random(seed)
    sent: list[bytes] = []
    came: list[bytes] = []
    with udp_socket(other) as receiver, udp_socket(one) as sender:
        receiver.settimeout(1)
        done = threading.Event()

        def receive() -> None:
            while True:
                try:
                    came.append(receiver.recv(1 << 16))
                except TimeoutError:
                    if done.is_set():
                        return

        reader = threading.Thread(target=receive)
        reader.start()
        try:
            to = receiver.getsockname()
            while len(sent) < count:
                some = chance.choice([1, 1, 2, 30])
                size = chance.randint(4, most)
                if size > 1444:
                    some = 1
                batch = [
                    struct.pack("!I", len(sent) + number) + chance.randbytes(size - 4)
                    for number in range(some)
                ]
                batch[-1] = batch[-1][: chance.randint(4, size)]
                control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
                sender.sendmsg([b"".join(batch)], control if some > 1 else (), 0, to)
                sent += batch
                time.sleep(0.0001 * some)
        finally:
            done.set()
            reader.join()
    return Datagrams(sent, came)


@contextlib.contextmanager
def flood(one: Pod, other: Pod, rate: int = 0) -> t.Iterator[list[int]]:
    """A TCP connection that sends as fast as it can, or ``rate`` bytes a second; the bytes that
    have come, second by second."""
    seconds: list[int] = []
    ended = threading.Event()
    with connection(one, other) as (sender, receiver):
        sender.settimeout(0.2)
        receiver.settimeout(0.2)
        if rate:
            sender.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)

        def send() -> None:
            data = bytes(1 << 18)
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    sender.send(data)

        def receive() -> None:
            buffer = bytearray(1 << 20)
            begin = time.monotonic()
            while not ended.is_set():
                try:
                    size = receiver.recv_into(buffer)
                except TimeoutError:
                    size = 0
                now = int(time.monotonic() - begin)
                seconds.extend([0] * (now + 1 - len(seconds)))
                seconds[now] += size

        work = [threading.Thread(target=send), threading.Thread(target=receive)]
        for each in work:
            each.start()
        try:
            yield seconds
        finally:
            ended.set()
            for each in work:
                each.join()
