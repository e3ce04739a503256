# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nobody is trusted: what should not be delivered is dropped, counted by reason, and does no harm.
Whoever sends what cannot be carried is told why, but not too often."""

from __future__ import annotations

import collections
import random
import struct
import subprocess
import time
import typing as t

import pytest

from tests.lab import Lab
from tests.lab.waiting import wait
from tests.relay import packets
from tests.relay.ends import HERE, THERE
from tests.relay.hosts import PORT, Fleet, Peer, RelayHost
from tests.relay.packets import DF, MF, Packet, echo, hop, ipv4, partial, tcp, udp
from tests.relay.sockets import GSO_TCP4, Frames, Wire, silence
from tests.relay.traffic import exchange

ELSEWHERE, NOWHERE = "10.5.3.9", "10.5.99.9"
UNREACHABLE, TIME_EXCEEDED = 3, 11
NET_UNREACHABLE, FRAGMENTATION_NEEDED = 0, 4


class Dropped(collections.Counter[str]):
    """What a test expects to be dropped, by reason."""

    def __init__(self, host: RelayHost) -> None:
        super().__init__()
        self._host = host
        self._before = host.drops()

    def found(self) -> collections.Counter[str]:
        """What has been dropped until now."""
        found = self._host.drops() - self._before
        found.pop("not_ipv4", None)  # the kernel's own, at any time
        return found

    def all_counted(self) -> None:
        """As much as is expected, or more, of whatever reason."""
        wait(lambda: self.found().total() >= self.total(), "what is dropped")


class Site(t.NamedTuple):
    """A host with a relay; at the ends of its wires the peers of 10.5.2.0/24 and 10.5.3.0/24, and
    somebody who is no peer. ``device`` sees what the relay gives to the kernel."""

    host: RelayHost
    pod: Frames
    mac: bytes
    device: Frames
    peer: Wire
    other: Wire
    stranger: Wire

    def clear(self) -> None:
        for each in (self.pod, self.device, self.peer, self.other, self.stranger):
            each.clear()

    def quiet(self, dropped: Dropped) -> None:
        """Nothing came of anything, once all of it has been dropped."""
        dropped.all_counted()
        assert self.device.received(quiet=0.05) == []
        assert self.pod.received(quiet=0) == []
        for each in (self.peer, self.other, self.stranger):
            assert each.received(quiet=0) == []

    def alive(self) -> None:
        """It carries what it should, both ways."""
        self.clear()
        good = udp(THERE, HERE, 1, 2, b"good")
        self.peer.send(good)
        assert self.pod.received(1) == [hop(good, 2)]
        back = udp(HERE, THERE, 1, 2, b"good")
        self.pod.send(back, self.mac)
        assert self.peer.received(1) == [hop(back, 2)]


@pytest.fixture(scope="module", params=["packets", "vectors"])
def site(request: pytest.FixtureRequest, lab_factory: t.Callable[..., Lab]) -> t.Iterator[Site]:
    with Fleet(lab_factory(hosts=4, etcd=0), relays=1) as fleet:
        host = fleet.hosts[0]
        one, two, three = fleet.bare
        vector = int(request.param == "vectors")
        peers = [
            Peer("10.5.2.0/24", one.address, vector),
            Peer("10.5.3.0/24", two.address, vector),
        ]
        host.start_relay(peers, vector=bool(vector))
        host.segmented()
        silence(host.pod)
        with (
            Frames(host.pod) as pod,
            Frames(host.host, "flannel0") as device,
            Wire(one, PORT, host.address) as peer,
            Wire(two, PORT, host.address) as other,
            Wire(three, PORT, host.address) as stranger,
        ):
            yield Site(host, pod, host.mac(), device, peer, other, stranger)


@pytest.fixture
def dropped(site: Site) -> t.Iterator[Dropped]:
    """What a test expects to be dropped; nothing else may be."""
    site.host.revive()
    site.clear()
    expected = Dropped(site.host)
    yield expected
    expected.all_counted()
    assert expected.found() == expected
    site.alive()


GOOD = udp(THERE, HERE, 1, 2, b"payload" * 10)


# --- on the way in --------------------------------------------------------------------------------


def test_a_stranger_is_not_heard(site: Site, dropped: Dropped) -> None:
    site.stranger.send(GOOD, udp(ELSEWHERE, HERE, 1, 2, b""), b"", b"\xf1", b"\x00")
    site.stranger.send_together([GOOD] * 7)
    dropped["unknown_peer"] = 12
    site.quiet(dropped)


@pytest.mark.parametrize(
    "source",
    [
        ELSEWHERE,
        HERE,
        "10.5.1.1",
        NOWHERE,
        "10.6.0.1",
        "192.0.2.1",
        "172.21.0.12",
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "10.5.0.0",
    ],
)
def test_a_peer_speaks_for_its_subnet_only(site: Site, dropped: Dropped, source: str) -> None:
    site.peer.send(udp(source, HERE, 1, 2, b"x"), tcp(source, HERE, 1, 2, 3))
    site.peer.send_together([tcp(source, HERE, 1, 2, n, b"x", ident=n) for n in range(5)])
    site.peer.send_together([udp(source, HERE, 1, 2, b"xyz", ident=n) for n in range(5)])
    dropped["source"] = 12
    site.quiet(dropped)


@pytest.mark.parametrize(
    "target",
    [
        THERE,
        ELSEWHERE,
        NOWHERE,
        "10.4.255.255",
        "10.5.0.255",
        "10.5.2.0",
        "172.21.0.11",
        "192.0.2.1",
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "239.255.0.1",
        "255.255.255.255",
    ],
)
def test_only_what_is_for_this_subnet_is_delivered(
    site: Site, dropped: Dropped, target: str
) -> None:
    site.peer.send(udp(THERE, target, 1, 2, b"x"), echo(THERE, target, 1, b"x"))
    site.peer.send_together([tcp(THERE, target, 1, 2, n, b"x", ident=n) for n in range(5)])
    dropped["destination"] = 7
    site.quiet(dropped)


def test_truncated_packets(site: Site, dropped: Dropped) -> None:
    """Of any length, also none, and one byte short in every way."""
    for packet in (GOOD, tcp(THERE, HERE, 1, 2, 3, b"abc"), ipv4(THERE, HERE, 47, b"")):
        for length in range(len(packet)):
            site.peer.send(packet[:length])
            dropped["malformed"] += 1
    site.quiet(dropped)


@pytest.mark.parametrize("length", [*range(1, 30), 60, 97])
def test_truncated_packets_that_come_together(site: Site, dropped: Dropped, length: int) -> None:
    for last in {1, length}:
        site.peer.send_together([GOOD[:length]] * 9 + [GOOD[:last]])
        dropped["malformed"] += 10
    site.quiet(dropped)


def _header(**fields: int) -> bytes:
    """GOOD with other bytes in its header, its checksum right again; "b0" is the first byte."""
    made = bytearray(GOOD)
    for name, value in fields.items():
        made[int(name[1:])] = value
    made[10:12] = b"\0\0"
    length = min(max((made[0] & 15) * 4, 20), len(made))
    made[10:12] = struct.pack("!H", packets.checksum(bytes(made[:length])))
    return bytes(made)


@pytest.mark.parametrize(
    "packet",
    [
        *(_header(b0=version << 4 | 5) for version in range(16) if version not in (4, 15)),
        *(_header(b0=0x40 | words) for words in range(5)),
        _header(b3=len(GOOD) - 1),
        _header(b3=len(GOOD) + 1),
        _header(b2=0xFF),
        _header(b3=19),
        _header(b2=0, b3=0),
        GOOD + b"\0",
        ipv4(THERE, HERE, 17, b"")[:1].replace(b"E", b"O") + ipv4(THERE, HERE, 17, b"")[1:],
        b"\0" * 20,
        b"\xff" * 1472,
        b"\x45" + b"\0" * 19,
    ],
    ids=lambda packet: packet[:4].hex(),
)
def test_malformed_packets(site: Site, dropped: Dropped, packet: bytes) -> None:
    site.peer.send(packet)
    site.peer.send_together([packet] * 3)
    dropped["malformed"] = 4
    site.quiet(dropped)


@pytest.mark.parametrize("spoil", [1, 0x100, 0x8000, 0x1234])
def test_a_wrong_header_checksum(site: Site, dropped: Dropped, spoil: int) -> None:
    found = [
        ipv4(THERE, HERE, 6, tcp(THERE, HERE, 1, 2, n, b"x")[20:], ident=n, spoil=spoil)
        for n in range(5)
    ]
    site.peer.send(*found)
    site.peer.send_together(found)
    dropped["checksum"] = 10
    site.quiet(dropped)


@pytest.mark.parametrize("ttl", [0, 1])
def test_a_packet_from_a_peer_whose_time_is_over(site: Site, dropped: Dropped, ttl: int) -> None:
    """Its sender is told, through the tunnel."""
    packet = udp(THERE, HERE, 1, 2, b"late" * 10, ttl=ttl)
    site.peer.send(packet)
    dropped["ttl"] = 1
    (answer,) = site.peer.received(1)
    _about(answer, packet, TIME_EXCEEDED, 0, THERE)
    site.quiet(dropped)


# --- on the way out -------------------------------------------------------------------------------


def _about(answer: bytes, packet: bytes, kind: int, code: int, to: str) -> Packet:
    """The answer is an ICMP error about the packet, as RFC 792 and RFC 1812 have it."""
    found = Packet.parse(answer)
    assert found.protocol == packets.ICMP
    assert found.summed()
    assert found.destination == to
    assert found.source.startswith("10.5.")
    assert (found.payload[0], found.payload[1]) == (kind, code)
    assert len(answer) <= 576
    quoted = found.payload[8:]
    length = (packet[0] & 15) * 4
    assert len(quoted) >= min(len(packet), length + 8)
    # On its way the packet lost some of its time to live.
    assert quoted[:8] + quoted[9:10] + quoted[12:] == (
        packet[:8] + packet[9:10] + packet[12 : len(quoted)]
    )
    assert packets.checksum(quoted[:length]) == 0
    return found


def _said(site: Site, count: int = 1) -> list[bytes]:
    return site.pod.received(count)


@pytest.mark.parametrize("target", [NOWHERE, "10.5.0.1", "10.5.255.254"])
def test_no_route(site: Site, dropped: Dropped, target: str) -> None:
    packet = udp(HERE, target, 1, 2, b"to nowhere" * 100)
    site.pod.send(packet, site.mac)
    dropped["no_route"] = 1
    (answer,) = _said(site)
    _about(answer, packet, UNREACHABLE, NET_UNREACHABLE, HERE)


def test_time_exceeded(site: Site, dropped: Dropped) -> None:
    """The host's own kernel takes one, and answers for what is over there already."""
    packet = udp(HERE, THERE, 1, 2, b"too far", ttl=2)
    site.pod.send(packet, site.mac)
    dropped["ttl"] = 1
    (answer,) = _said(site)
    _about(answer, packet, TIME_EXCEEDED, 0, HERE)
    last = udp(HERE, THERE, 1, 2, b"just so", ttl=3)
    site.pod.send(last, site.mac)
    assert site.peer.received(1) == [hop(last, 2)]


def test_an_offloaded_packet_whose_time_is_over(site: Site) -> None:
    """Told about once or for every packet, as it comes to the relay."""
    before = site.host.drops()
    packet = tcp(HERE, THERE, 1, 2, 3, bytes(20000), ttl=2)
    site.pod.send(partial(packet), site.mac, GSO_TCP4, 1000, 40)
    answers: list[bytes] = []

    def told() -> bool:
        answers.extend(site.pod.received(quiet=0.2))
        return 0 < len(answers) == (site.host.drops() - before)["ttl"]

    wait(told, "an error for each")
    assert [Packet.parse(each).payload[0] for each in answers] == [TIME_EXCEEDED] * len(answers)
    assert len(answers) <= 20
    assert site.peer.received(quiet=0) == []


@pytest.mark.parametrize(
    "packet",
    [
        packets.icmp(HERE, NOWHERE, 3, 1, bytes(4), GOOD[:28]),
        packets.icmp(HERE, NOWHERE, 11, 0, bytes(4), GOOD[:28]),
        ipv4(HERE, NOWHERE, 17, b"the rest", frag=3, ident=5),
        ipv4(HERE, NOWHERE, 17, b"the rest", frag=MF | 3, ident=5),
    ],
    ids=["unreachable", "time exceeded", "last fragment", "fragment"],
)
def test_what_nobody_is_told_about(site: Site, dropped: Dropped, packet: bytes) -> None:
    """RFC 1122, 3.2.2: else errors would answer errors."""
    site.pod.send(packet, site.mac)
    dropped["no_route"] = 1
    dropped.all_counted()
    assert site.pod.received(quiet=0.2) == []


@pytest.mark.parametrize("kind", ["query", "first fragment"])
def test_what_somebody_is_told_about(site: Site, dropped: Dropped, kind: str) -> None:
    packet = echo(HERE, NOWHERE, 1, b"anybody?")
    if kind == "first fragment":
        packet = ipv4(HERE, NOWHERE, 17, bytes(16), frag=MF, ident=6)
    site.pod.send(packet, site.mac)
    dropped["no_route"] = 1
    (answer,) = _said(site)
    _about(answer, packet, UNREACHABLE, NET_UNREACHABLE, HERE)


def test_errors_are_rate_limited(site: Site, dropped: Dropped) -> None:
    begin = time.monotonic()
    count = 1500
    for number in range(count):
        site.pod.send(udp(HERE, NOWHERE, 1, 2, b"", ident=number), site.mac)
        dropped["no_route"] += 1
        if not number % 100:
            dropped.all_counted()  # the device's queue is short
    dropped.all_counted()
    answers = site.pod.received(quiet=0.3)
    seconds = time.monotonic() - begin
    assert 1 <= len(answers) <= 60 + 120 * seconds, seconds
    lines = site.host.said().splitlines()
    assert len(lines) < 30, "the journal as well"
    time.sleep(0.6)  # for tests that come after this one


def test_from_a_pod_it_looks_like_any_network(site: Site) -> None:
    """What ping makes of the answers: the pod's kernel takes them, wherever they come from."""
    options = ["-c", "1", "-W", "60"]
    assert "Net Unreachable" in site.host.pod.exec(["ping", *options, NOWHERE]).stdout
    assert (
        "Time to live exceeded" in site.host.pod.exec(["ping", *options, "-t", "2", THERE]).stdout
    )


# --- what is too big ------------------------------------------------------------------------------


@pytest.fixture
def narrow(site: Site) -> t.Iterator[int]:
    """The way to the first peer takes 1300 bytes from now on; the largest packet then."""
    site.host.revive()
    address = site.host.fleet.bare[0].address
    site.host.ip("route add %s dev eth0 mtu lock 1300" % address)
    yield 1300 - 28
    site.host.ip("route del %s" % address)
    # What it has learnt, it believes for minutes.
    table = [Peer("10.5.3.0/24", site.host.fleet.bare[1].address)]
    peers = [Peer("10.5.2.0/24", address), *table]
    site.host.reload(table)
    site.host.reload(peers)


def test_too_big_and_not_to_be_cut(site: Site, narrow: int) -> None:
    before = site.host.drops()
    site.clear()
    for make in (
        udp(HERE, THERE, 1, 2, bytes(1400)),
        tcp(HERE, THERE, 1, 2, 3, bytes(narrow - 39)),
    ):
        for dummy in range(2):  # before it knows, and after
            site.pod.send(make, site.mac)
            (answer,) = _said(site)
            found = _about(answer, make, UNREACHABLE, FRAGMENTATION_NEEDED, HERE)
            assert struct.unpack_from("!HH", found.payload, 4) == (0, narrow)
    wait(lambda: (site.host.drops() - before)["too_big"] >= 4, "the count of them")
    assert (site.host.drops() - before)["too_big"] == 4
    assert site.peer.received(quiet=0.1) == []
    fits = udp(HERE, THERE, 1, 2, bytes(narrow - 28))
    site.pod.send(fits, site.mac)
    assert site.peer.received(1) == [hop(fits, 2)]


def test_too_big_as_part_of_an_offloaded_packet(site: Site, narrow: int) -> None:
    site.clear()
    packet = tcp(HERE, THERE, 1, 2, 3, bytes(i & 0xFF for i in range(14320)))
    site.pod.send(partial(packet), site.mac, GSO_TCP4, 1432, 40)
    answers = site.pod.received(1)
    assert answers
    for answer in answers + site.pod.received(quiet=0.2):
        found = Packet.parse(answer)
        assert (found.payload[0], found.payload[1]) == (UNREACHABLE, FRAGMENTATION_NEEDED)
        assert struct.unpack_from("!HH", found.payload, 4) == (0, narrow)
    smaller = tcp(HERE, THERE, 1, 2, 3, bytes(14320))
    if site.host.ask("status")["settings"]["vector"]:
        return
    site.peer.clear()
    site.pod.send(partial(smaller), site.mac, GSO_TCP4, narrow - 40, 40)
    expected = [hop(each, 2) for each in packets.cut(smaller, narrow - 40)]
    assert site.peer.received(len(expected)) == expected


@pytest.mark.parametrize("options", [b"", b"\x94\x04\0\0\x01\x01\x01\x01"], ids=["", "options"])
def test_too_big_but_may_be_cut(site: Site, narrow: int, options: bytes) -> None:
    """The peer gets fragments, of which its kernel makes the packet again."""
    for frag, ident in ((0, 77), (0, 78), (MF | 100, 79)):
        site.clear()
        packet = udp(
            HERE, THERE, 1, 2, random.Random(1).randbytes(1401 + 7 * (not frag) - 1), frag=frag,
            ident=ident, options=options,
        )  # fmt: skip
        site.pod.send(packet, site.mac)
        got = [Packet.parse(each) for each in site.peer.received(2)]
        assert all(len(each.raw) <= narrow for each in got)
        assert all(each.ident == ident and not each.flags & DF for each in got)
        assert [bool(each.flags & MF) for each in got] == [True, bool(frag & MF)]
        length = (packet[0] & 15) * 4
        whole = bytearray(len(packet) - length)
        for each in got:
            at = ((each.flags & 0x1FFF) - (frag & 0x1FFF)) * 8
            whole[at : at + len(each.payload)] = each.payload
        assert bytes(whole) == packet[length:]


@pytest.mark.parametrize("kind", ["relay", "vector"])
def test_path_mtu_discovery_through_the_tunnel(
    lab_factory: t.Callable[..., Lab], kind: str
) -> None:
    """A router on the way takes no more than 1300 bytes; nobody was told beforehand."""
    lab = lab_factory(hosts=2, segments=2, etcd=0)
    with Fleet(lab) as fleet:
        _narrow_router(lab)
        fleet.carry(kind, kind)
        one, other = (each.pod for each in fleet.hosts)
        exchange(one, other, 3_000_000, 1)
        # It is the tunnel that told the pod, not the pod that guessed.
        route = one.exec(["ip", "route", "get", other.address]).stdout
        assert "mtu %d" % (1300 - 28) in route, route
        sizes = [one.exec(["ping", "-c1", "-W60", "-s%d" % n, other.address]) for n in (1244, 1400)]
        assert [each.returncode for each in sizes] == [0, 0]


def _narrow_router(lab: Lab) -> None:
    for segment in (1, 2):
        line = "ip route replace 172.2%d.0.0/16 dev seg%d mtu lock 1300" % (segment, segment)
        subprocess.run(["ip", "netns", "exec", lab.name + "-router", *line.split()], check=True)
