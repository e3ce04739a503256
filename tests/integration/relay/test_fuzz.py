# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Spoilt datagrams and frames through real sockets and a real device; tests/unit/relay/test_fuzz.py
has more of them, and knows exactly what should come of each."""

from __future__ import annotations

import os
import random
import socket
import typing as t
import zlib

import pytest

from tests.lab import Lab
from tests.lab.system import netns_pids
from tests.lab.waiting import wait
from tests.relay.flows import Flows
from tests.relay.hosts import PORT, Fleet, Peer, RelayHost
from tests.relay.judge import Judge, Spoiler
from tests.relay.packets import UDP, checksum, head, hop, partial, udp
from tests.relay.sockets import Frames, Wire, inside, silence
from tests.relay.worker import GSO_TCP4, GSO_UDP_L4, Frame

COUNT = int(os.environ.get("FLATNET_FUZZ", "10000"))
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(random.random())
SEED = int(os.environ.get("FLATNET_SEED", "0")) or zlib.crc32(_RUN.encode())
HERE, THERE, ELSEWHERE = "10.5.1.9", "10.5.2.9", "10.5.3.9"
ADDRESSES = [HERE, THERE, ELSEWHERE, "10.5.99.1", "10.5.1.1", "10.5.1.0", "172.21.0.11"]
ADDRESSES += ["224.0.0.1", "255.255.255.255", "0.0.0.0", "127.0.0.1"]
KEPT = 8192  # kB


class Site(t.NamedTuple):
    host: RelayHost
    device: Frames
    plain: Wire
    vectors: Wire
    stranger: Wire


@pytest.fixture(scope="module")
def site(lab_factory: t.Callable[..., Lab]) -> t.Iterator[Site]:
    with Fleet(lab_factory(hosts=4, etcd=0), relays=1) as fleet:
        host = fleet.hosts[0]
        plain, vectors, stranger = fleet.bare
        host.start_relay(
            [Peer("10.5.2.0/24", plain.address), Peer("10.5.3.0/24", vectors.address, 1)]
        )
        silence(host.pod)
        with (
            Frames(host.host, "flannel0") as device,
            Wire(plain, PORT, host.address) as one,
            Wire(vectors, PORT, host.address) as two,
            Wire(stranger, PORT, host.address) as three,
        ):
            yield Site(host, device, one, two, three)


def _memory(host: RelayHost) -> int:
    """Kilobytes of the relay's processes, by the kernel's count."""
    total = 0
    for pid in netns_pids([host.host.netns]):
        with open("/proc/%d/status" % pid) as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    return total


class Unharmed:
    """The relay's processes are those that they were, keep nothing, and carry what they should."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._pids = netns_pids([site.host.host.netns])
        self._memory = 0

    def look(self, done: int) -> None:
        if done >= COUNT // 5 and not self._memory:
            self._memory = _memory(self._site.host)

    def check(self) -> None:
        site = self._site
        site.host.check()
        assert netns_pids([site.host.host.netns]) == self._pids
        if COUNT >= 500_000:  # else warming up is all there is
            grown = _memory(site.host) - self._memory
            assert grown < KEPT, "%d kB more" % grown
        site.device.clear()
        good = udp(THERE, HERE, 1, 2, b"good")
        site.plain.send(good)
        assert site.device.received(1) == [hop(good)]


def _unknown(site: Site) -> int:
    """Datagrams that came from a stranger."""
    return site.host.drops()["unknown_peer"]


def _until_last(site: Site, wire: Wire, source: str) -> list[bytes]:
    """What is delivered of all that a peer has sent until now."""
    last = udp(source, HERE, 9, 9, b"the last one")
    wire.send(last)
    come = []
    while hop(last) not in come:
        more = site.device.received(1)
        assert more, "the last one does not come"
        come += more
    come.remove(hop(last))
    return come


def test_datagrams(site: Site) -> None:
    chance = random.Random(SEED)
    spoiler = Spoiler(chance, ADDRESSES)
    wires = {THERE: site.plain, ELSEWHERE: site.vectors}
    judges = {
        THERE: Judge("10.5.1.0/24", {"10.5.2.0/24": "peer"}),
        ELSEWHERE: Judge("10.5.1.0/24", {"10.5.3.0/24": "peer"}),
    }
    unharmed = Unharmed(site)
    done = 0
    while done < COUNT:
        source = chance.choice([THERE, ELSEWHERE])
        strange = chance.random() < 0.1
        wire = site.stranger if strange else wires[source]
        unknown, sent = _unknown(site) if strange else 0, 0
        for dummy in range(5):
            found = Flows(chance.randrange(1 << 30), source, HERE).mixed(4)
            rate = chance.choice([0.05, 0.3, 1])
            found = [spoiler.spoilt(each) if chance.random() < rate else each for each in found]
            found += [spoiler.garbage() for dummy in range(5)]
            datagrams = [each[:1472] for each in found if each]
            wire.send_batches(datagrams)
            sent += len(datagrams)
            done += len(found)
        if strange:
            wait(lambda: _unknown(site) >= unknown + sent, "the count of a stranger's")  # noqa: B023
            come = site.device.received(quiet=0)
            assert not come
        else:
            come = _until_last(site, wire, source)
        for packet in come:
            # Several that were joined have the header of one.
            assert checksum(packet[: (packet[0] & 15) * 4]) == 0
            assert judges[source].delivers(hop(packet, -1), "peer"), (SEED, packet.hex())
        unharmed.look(done)
    unharmed.check()


def test_frames(site: Site) -> None:
    """As from a kernel that has gone mad."""
    chance = random.Random(SEED + 1)
    spoiler = Spoiler(chance, ADDRESSES)
    unharmed = Unharmed(site)
    refused = done = 0
    with inside(site.host.host):
        device = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with device:
        device.bind(("flannel0", 0))
        device.setsockopt(263, 15, 1)  # PACKET_VNET_HDR
        while done < COUNT // 2:
            target = chance.choice([THERE, ELSEWHERE])
            flows = Flows(chance.randrange(1 << 30), HERE, target)
            packet, size = flows.offloaded()
            gso = GSO_UDP_L4 if packet[9] == UDP else GSO_TCP4
            whole = len(packet) - head(packet) > size
            raws = [Frame(partial(packet), gso if whole else 0, size, True).to_bytes()]
            raws += [Frame(each).to_bytes() for each in flows.mixed(2)]
            for raw in raws:
                spoilt = bytearray(raw[:10] + spoiler.spoilt(raw[10:]))
                if chance.random() < 0.2:
                    spoilt[chance.randrange(10)] = chance.randrange(256)
                try:
                    device.send(spoilt)
                except OSError:
                    refused += 1  # by the kernel
            done += len(raws)
            for wire, formats in ((site.plain, (4,)), (site.vectors, (4, 15))):
                for data in wire.received(quiet=0):
                    assert data[0] >> 4 in formats
                    assert len(data) <= 1472
            unharmed.look(done)
    assert refused < done // 2
    assert site.stranger.received(quiet=0) == []
    unharmed.check()
