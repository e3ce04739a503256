# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on the wire: flannel's format, byte for byte, both ways.

The other end is a bare UDP socket, which sends and receives a datagram at a time. All of it is also
asked of the independent peer, so that the tests themselves are tested.
"""

from __future__ import annotations

import contextlib
import struct
import typing as t

import pytest

from tests.lab import Lab
from tests.relay import packets
from tests.relay.ends import HERE, THERE, Ends
from tests.relay.ends import ends as ends_of
from tests.relay.hosts import PORT
from tests.relay.packets import ACK, CWR, DF, ECE, FIN, PSH, cut, echo, hop, partial, tcp, udp
from tests.relay.sockets import GSO_ECN, GSO_TCP4, GSO_UDP_L4, Frames, inside, tcp_socket

OPTIONS = b"\x94\x04\0\0" + b"\x07\x07\x08\0\0\0\0\0"  # router alert, a full record of the route


@pytest.fixture(scope="module", params=["plain", "relay"], name="ends")
def _ends(request: pytest.FixtureRequest, lab_factory: t.Callable[..., Lab]) -> t.Iterator[Ends]:
    with ends_of(lab_factory(hosts=2, etcd=0), request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def _quiet(ends: Ends) -> None:
    ends.clear()


def _various(source: str, destination: str) -> list[bytes]:
    """Packets of all kinds and sizes; hops away from everything that would answer them."""
    big = bytes(range(256)) * 5 + bytes(164)
    assert len(big) == 1444
    return [
        udp(source, destination, 5000, 6000, b""),
        udp(source, destination, 5000, 6000, b"x"),
        udp(source, destination, 5000, 6000, big, frag=0, ident=7),
        udp(source, destination, 5000, 6000, b"no checksum", summed=False),
        tcp(source, destination, 5001, 6001, 1, b""),
        tcp(source, destination, 5001, 6001, 1, b"odd", flags=ACK | PSH, tos=3),
        tcp(source, destination, 5001, 6001, 0xFFFFFFF0, big[:-12], ident=0xFFFF),
        tcp(source, destination, 5001, 6001, 9, b"urgent", flags=ACK | packets.URG, urgent=3),
        tcp(source, destination, 5001, 6001, 9, b"", flags=ACK | ECE | CWR | FIN, ttl=255),
        echo(source, destination, 2, b"payload" * 30, tos=0xFC),
        packets.ipv4(source, destination, 47, b"a protocol of its own", ttl=3),
        packets.ipv4(source, destination, 253, b"", options=OPTIONS),
        tcp(source, destination, 5001, 6001, 5, b"with options", options=b"\1\1\1\0" * 3),
        udp(source, destination, 5000, 6000, b"and here", options=OPTIONS),
        *packets.fragments(udp(source, destination, 5, 6, big * 3, frag=0, ident=99), 1472),
        *packets.fragments(echo(source, destination, 6, big, frag=0, ident=98), 200),
    ]


def test_a_datagram_is_one_packet_on_the_way_out(ends: Ends) -> None:
    found = _various(HERE, THERE)
    # One hop is the host's, which forwards, and one the tunnel's.
    assert ends.out(*found) == [hop(each, 2) for each in found]
    assert ends.wire.sources == {(ends.host.address, PORT)}


def test_a_datagram_is_one_packet_on_the_way_in(ends: Ends) -> None:
    found = _various(THERE, HERE)
    ends.wire.send(*found)
    assert ends.pod.received(len(found)) == [hop(each, 2) for each in found]


@pytest.mark.parametrize("size", [1, 2, 7, 63, 64, 65, 535, 536, 1431, 1432, 1444])
def test_every_size_of_datagram(ends: Ends, size: int) -> None:
    data = bytes((size + i) & 0xFF for i in range(size))
    found = udp(HERE, THERE, 1, 2, data)
    assert ends.out(found) == [hop(found, 2)]
    back = udp(THERE, HERE, 2, 1, data)
    ends.wire.send(back)
    assert ends.pod.received(1) == [hop(back, 2)]


def test_checksums_that_are_0_or_all_ones(ends: Ends) -> None:
    """Where ones' complement has two zeros, and where the TTL's carry goes round."""
    found = [udp(HERE, THERE, 0, 0, struct.pack("!H", word)) for word in range(0, 65536, 257)]
    checks = [udp(HERE, THERE, 1, 1, b"", ident=word, frag=0) for word in range(0, 65536, 257)]
    for some in (found, checks):
        assert ends.out(*some) == [hop(each, 2) for each in some]
        back = [_turned(each) for each in some]
        ends.wire.send(*back)
        assert ends.pod.received(len(back)) == [hop(each, 2) for each in back]


def test_every_header_checksum_that_the_ttl_can_meet(ends: Ends) -> None:
    """The checksum is 0 or next to it before, between and after the hops."""
    for word in _identifications(udp(HERE, THERE, 1, 1, b"", frag=0)):
        found = udp(HERE, THERE, 1, 1, b"", ident=word, frag=0)
        (got,) = ends.out(found)
        assert packets.checksum(got[:20]) == 0
        assert got[10:12] != b"\xff\xff"
        back = udp(THERE, HERE, 1, 1, b"", ident=word, frag=0)
        ends.wire.send(back)
        assert ends.pod.received(1) == [hop(back, 2)]


def _identifications(packet: bytes) -> list[int]:
    """Those with which the packet's header checksum becomes 0 before or after a few hops."""
    check = struct.unpack_from("!H", packet, 10)[0]
    return [(check + 0x100 * hops + near) % 0xFFFF for hops in range(4) for near in (-1, 0, 1)]


def _turned(packet: bytes) -> bytes:
    """With source and destination exchanged, which changes no checksum."""
    return packet[:12] + packet[16:20] + packet[12:16] + packet[20:]


@pytest.mark.parametrize("size", [1, 2, 88, 535, 1000, 1431, 1432])
@pytest.mark.parametrize("count", [2, 3, 44])
def test_an_offloaded_tcp_segment_is_cut_as_it_should_be(ends: Ends, size: int, count: int) -> None:
    data = bytes(i * 7 & 0xFF for i in range(size * count - size // 2))
    for flags, ident, df in ((ACK | PSH, 7, DF), (ACK | CWR | PSH | FIN, 0xFFFE, 0)):
        found = tcp(
            HERE, THERE, 1, 2, 0xFFFFFF00, data, flags=flags, ident=ident, ack=77, ttl=9, frag=df
        )
        gso = GSO_TCP4 | (GSO_ECN if flags & CWR else 0)
        ends.pod.send(partial(found), ends.mac, gso, size, packets.head(found))
        expected = [hop(each, 2) for each in cut(found, size)]
        assert ends.wire.received(len(expected)) == expected


@pytest.mark.parametrize("more", [b"", b"\x01" * 28], ids=["timestamps", "the longest"])
def test_an_offloaded_tcp_segment_with_options(ends: Ends, more: bytes) -> None:
    stamps = packets.NOP_TIMESTAMPS + b"\x00\x01\x02\x03\x04\x05\x06\x07"
    data = bytes(30001)
    found = tcp(HERE, THERE, 1, 2, 3, data, flags=ACK | ECE, options=stamps + more)
    ends.pod.send(partial(found), ends.mac, GSO_TCP4, 1201, packets.head(found))
    expected = [hop(each, 2) for each in cut(found, 1201)]
    assert ends.wire.received(len(expected)) == expected


@pytest.mark.parametrize(("size", "length"), [(1, 60), (64, 64 * 64), (1001, 9000), (1444, 60000)])
def test_an_offloaded_udp_datagram_is_cut_as_it_should_be(
    ends: Ends, size: int, length: int
) -> None:
    found = udp(HERE, THERE, 1, 2, bytes(i & 0xFF for i in range(length)), ident=65530, frag=0)
    ends.pod.send(partial(found), ends.mac, GSO_UDP_L4, size, packets.head(found))
    expected = [hop(each, 2) for each in cut(found, size)]
    assert ends.wire.received(len(expected)) == expected


@pytest.mark.parametrize("make", [tcp, udp])
@pytest.mark.parametrize("size", [0, 1, 2, 999, 1432])
def test_a_checksum_that_was_left_to_the_device(ends: Ends, make: t.Any, size: int) -> None:
    data = bytes(i & 0xFF for i in range(size))
    found = tcp(HERE, THERE, 1, 2, 3, data) if make is tcp else udp(HERE, THERE, 1, 2, data)
    ends.pod.send(partial(found), ends.mac, partial=True)
    assert ends.wire.received(1) == [hop(found, 2)]


def test_a_udp_checksum_of_0_is_sent_as_all_ones(ends: Ends) -> None:
    plain = udp(HERE, THERE, 1, 2, b"\0\0")
    check = struct.unpack_from("!H", plain, 26)[0]
    found = udp(HERE, THERE, 1, 2, struct.pack("!H", check))
    assert found[26:28] == b"\xff\xff"
    ends.pod.send(partial(found), ends.mac, partial=True)
    assert ends.wire.received(1) == [hop(found, 2)]


def test_packets_that_come_together_are_those_that_were_sent(ends: Ends) -> None:
    """As the kernel gives them to a socket that takes many at once; the pod gets each of them."""
    data = bytes(range(250)) * 4
    flow = [tcp(THERE, HERE, 1, 2, 1000 * n, data, ident=n, ack=5) for n in range(40)]
    tail = tcp(THERE, HERE, 1, 2, 40000, b"end", flags=ACK | PSH, ident=40, ack=5)
    ends.wire.send_batches([*flow, tail])
    assert ends.pod.received(41) == [hop(each, 2) for each in [*flow, tail]]
    grams = [udp(THERE, HERE, 1, 2, data, ident=n) for n in range(40)]
    ends.wire.send_batches([*grams, udp(THERE, HERE, 1, 2, b"end", ident=40)])
    assert len(ends.pod.received(41)) == 41


def test_what_is_behind_a_datagram_is_no_part_of_it(ends: Ends) -> None:
    """UDP has a length of its own. Here both lengths make a good checksum."""
    grams = [udp(THERE, HERE, 1, 2, b"%02d" % n, ident=n, frag=0) for n in range(9)]
    found = []
    for number, gram in enumerate(grams):
        padded = gram[20:] + struct.pack("!H", 0xFFFF - 2)
        found.append(packets.ipv4(THERE, HERE, packets.UDP, padded, ident=number, frag=0))
    ends.wire.send_together(found)
    assert ends.pod.received(9) == [hop(each, 2) for each in found]


def test_the_outer_packet(ends: Ends) -> None:
    """8285 to 8285, a checksum that is right, and DF."""
    with Frames(ends.host.fleet.bare[0]) as outer:
        found = _various(HERE, THERE)
        ends.out(*found)
        got = [each for each in outer.received(quiet=0.2) if each[9] == packets.UDP]
    assert len(got) == len(found)
    for each, inner in zip(got, found):
        packet = packets.Packet.parse(each)
        assert packet.summed()
        assert struct.unpack_from("!HHH", packet.payload) == (PORT, PORT, 8 + len(inner))
        assert packet.payload[8:] == hop(inner, 2)
        assert packet.flags & DF
        assert (packet.source, packet.destination) == (
            ends.host.address,
            ends.host.fleet.bare[0].address,
        )


def test_nothing_but_ipv4_packets_for_who_does_not_ask_for_more(ends: Ends) -> None:
    """Also under load, where a peer that advertises vectors would be sent some."""
    with tcp_socket(ends.host.pod) as client, inside(ends.host.pod):
        client.setblocking(False)
        assert client.connect_ex((THERE, 7000)) == 115
        (syn,) = ends.wire.received(1)
        heard = packets.Packet.parse(syn)
        port, _to, sequence = struct.unpack_from("!HHI", heard.payload)
        options = b"\x02\x04" + struct.pack("!H", 1000) + b"\x01\x03\x03\x0a"
        ends.wire.send(
            tcp(THERE, HERE, 7000, port, 5000, ack=sequence + 1, flags=packets.SYN | ACK,
                window=65535, options=options)
        )  # fmt: skip
        data = bytes(i * 31 >> 3 & 0xFF for i in range(1 << 20))
        whole = bytearray()
        assert len(ends.wire.received(1)) == 1
        offset = 0
        while len(whole) < len(data):
            if offset < len(data):
                with contextlib.suppress(BlockingIOError):
                    offset += client.send(data[offset : offset + 65536])
            for raw in ends.wire.received(quiet=0.01):
                packet = packets.Packet.parse(raw)
                assert packet.summed()
                assert len(packet.data) <= 1000
                at = struct.unpack_from("!I", packet.payload, 4)[0] - sequence - 1 & 0xFFFFFFFF
                assert at <= len(whole), "a hole"
                whole[at:] = packet.data if at + len(packet.data) > len(whole) else whole[at:]
            answer = tcp(
                THERE, HERE, 7000, port, 5001, ack=(sequence + 1 + len(whole)) & 0xFFFFFFFF,
                window=65535,
            )  # fmt: skip
            ends.wire.send(answer)
        assert bytes(whole) == data
