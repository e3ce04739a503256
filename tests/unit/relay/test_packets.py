# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's arithmetic and tables, against plain ways to say the same."""

from __future__ import annotations

import ipaddress
import itertools
import struct

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay import (
    checksum,
    frames,
    packets,
    router,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.relay import judge
from tests.relay import packets as plain
from tests.relay.flows import Flows
from tests.relay.packets import UDP, Packet, cut, hop, partial, udp, unnumbered
from tests.relay.worker import GSO_TCP4, GSO_UDP_L4, Frame, Worker

HERE, THERE = "10.5.1.9", "10.5.2.9"
PEER = "192.0.2.2"

seeds = st.integers(0, 1 << 30)
words = st.integers(0, 65535)
# Of 0 and 0xFFFF there are to be many.
data = st.binary(max_size=3000) | st.builds(
    b"".join,
    st.lists(st.sampled_from([b"\0\0", b"\xff\xff", b"\xff", b"\0\1", b"\xff\xfe"]), max_size=900),
)
addresses = st.integers(0, (1 << 32) - 1)
near = st.builds(lambda low: 0x0A050000 + low, st.integers(0, 0xFFFF))


# --- checksums ------------------------------------------------------------------------------------


@given(data)
def test_a_sum_is_that_of_the_words(found: bytes) -> None:
    assert checksum.total(found) == (plain.checksum(found) ^ 0xFFFF) % 65535


@pytest.mark.parametrize("size", [0, 1, 2, 1447, 1448, 2047, 2048, 9000, 65535])
@pytest.mark.parametrize("byte", [0, 1, 0x80, 0xFF])
def test_sums_of_every_length(size: int, byte: int) -> None:
    for length in {max(size - 1, 0), size, size + 1}:
        found = bytes([byte]) * length
        assert checksum.total(found) == (plain.checksum(found) ^ 0xFFFF) % 65535


@given(data)
def test_a_field_makes_the_sum_right(found: bytes) -> None:
    whole = found + bytes(len(found) % 2)
    field = checksum.field(checksum.total(whole))
    assert 0 <= field < 65535
    assert plain.checksum(whole + struct.pack("!H", field)) % 65535 == 0


@given(st.lists(st.binary(min_size=9, max_size=9), min_size=1, max_size=40), st.data())
def test_a_wrong_piece_is_found_among_many(pieces: list[bytes], drawn: st.DataObject) -> None:
    """Pieces that all sum up to one value; and the same with some bits of one turned over."""
    value = 4711
    made = []
    for piece in pieces:
        short = checksum.total(piece[:6] + b"\0\0" + piece[8:])
        made.append(bytearray(piece[:6] + struct.pack("!H", (value - short) % 65535) + piece[8:]))
    assert checksum.all_are([memoryview(each) for each in made], value)
    wrong = made[drawn.draw(st.integers(0, len(made) - 1))]
    wrong[drawn.draw(st.integers(0, 8))] ^= 1 << drawn.draw(st.integers(0, 7))
    assert not checksum.all_are([memoryview(each) for each in made], value)


@pytest.mark.parametrize("bit", range(16))
def test_broken_wires_do_not_cancel_out(bit: int) -> None:
    """The same bit turned over in any two of a frame's packets, either way."""
    word = 1 << bit
    for first, second in itertools.combinations(range(checksum.MOST), 2):
        for one, other in ((word, word), (word, 65535 - word), (word, word << 1 & 0xFFFF)):
            pieces = [bytearray(2) for dummy in range(checksum.MOST)]
            pieces[first] = bytearray(struct.pack("!H", one))
            pieces[second] = bytearray(struct.pack("!H", other))
            assert not checksum.all_are([memoryview(each) for each in pieces], 0)


@pytest.mark.parametrize("bit", [0, 7, 15])
def test_a_bad_bit_in_several_packets_is_seen(bit: int) -> None:
    """The same bit turned over in four packets, two each way: no more passes than by chance."""
    errors = [1 << bit, 65535 - (1 << bit), 65535 - (1 << bit), 1 << bit]
    passed = 0
    for chosen in itertools.combinations(range(20), 4):
        pieces = [bytearray(2) for dummy in range(20)]
        for number, error in zip(chosen, errors):
            pieces[number] = bytearray(struct.pack("!H", error))
        passed += checksum.all_are([memoryview(each) for each in pieces], 0)
    assert passed <= 4, "of 4845"


@given(st.binary(min_size=0, max_size=1444), words, words)
def test_a_checksum_is_completed(payload: bytes, one: int, other: int) -> None:
    whole = udp(HERE, THERE, one, other, payload)
    packet = bytearray(partial(whole))
    assert frames.complete(memoryview(packet), 20, 6)
    assert bytes(packet) == whole


@given(st.binary(min_size=20, max_size=60), words, words)
def test_a_checksum_that_would_lie_outside(packet: bytes, start: int, offset: int) -> None:
    assume(start + offset + 2 > len(packet))
    assert not frames.complete(memoryview(bytearray(packet)), start, offset)


# --- cutting and joining --------------------------------------------------------------------------


@given(seeds)
def test_frames_are_cut_as_the_kernel_cuts_them(seed: int) -> None:
    packet, size = Flows(seed, HERE, THERE).offloaded()
    with Worker(("10.5.2.0/24", PEER, 0)) as worker:
        frame = Frame(partial(packet), GSO_UDP_L4 if packet[9] == UDP else GSO_TCP4, size)
        sent, said = worker.send(frame.to_bytes())
        assert [found for found, dummy in sent] == [hop(each) for each in cut(packet, size)]
        assert not said


@given(seeds, st.sampled_from(["tcp", "udp", "others"]))
def test_what_is_joined_comes_apart_again(seed: int, kind: str) -> None:
    """Runs of packets of one length: frames whose packets are those that came, in order."""
    flow: list[bytes] = getattr(Flows(seed, THERE, HERE), kind)()
    for length, found in itertools.groupby(flow, len):
        run = list(found)[: 65507 // length]  # more never comes together
        joined = frames.runs(memoryview(bytearray(b"".join(run))), length, True)
        at = 0
        for place, count in joined:
            assert place == at * length
            some = run[at : at + count]
            if count > 1:
                assert all(Packet.parse(each).summed() for each in some)
                parts = frames.join(memoryview(bytearray(b"".join(some))), length, count)
                cuts = Frame.parse(b"".join(parts)).packets()
                assert list(map(unnumbered, cuts)) == list(map(unnumbered, some))
            at += count
        assert at == len(run)


def test_what_is_alike_is_joined() -> None:
    """Else it would all be right, and slow."""
    stream = [
        plain.tcp(THERE, HERE, 1, 2, 1000 * n, bytes(1000), ident=n, ack=9) for n in range(40)
    ]
    assert list(frames.runs(memoryview(bytearray(b"".join(stream))), 1040, True)) == [(0, 40)]
    grams = [udp(THERE, HERE, 1, 2, bytes(1000), ident=n) for n in range(40)]
    run = memoryview(bytearray(b"".join(grams)))
    assert list(frames.runs(run, 1028, True)) == [(0, 40)]
    assert len(list(frames.runs(run, 1028, False))) == 40


@given(st.binary(max_size=400), st.integers(1, 100))
def test_no_run_of_bytes_hurts(found: bytes, length: int) -> None:
    at = 0
    for place, count in frames.runs(memoryview(bytearray(found)), length, True):
        assert place == at
        assert count >= 1
        at += count * length
    assert at >= len(found)


# --- the table ------------------------------------------------------------------------------------

subnets = st.builds(
    lambda address, length: str(ipaddress.IPv4Network((address, length), strict=False)),
    near | addresses,
    st.integers(0, 32),
)
tables = st.dictionaries(subnets, st.sampled_from(["192.0.2.%d" % n for n in range(1, 9)]))


@given(tables, st.lists(near | addresses, max_size=20))
def test_the_longest_prefix_decides(table: dict[str, str], targets: list[int]) -> None:
    found = router.Router(8285, 1472)
    found.replace(router.pack([(subnet, host, 0) for subnet, host in table.items()]))
    targets += [int(ipaddress.IPv4Network(subnet)[-1]) for subnet in table]
    for target in targets:
        for dummy in range(2):  # the second time from its memory
            peer = found.cache.get(target) or found.find(target)
            wanted = judge.owner(table, target.to_bytes(4, "big"))
            assert (peer.endpoint[0] if peer else None) == wanted


@given(tables, tables)
def test_a_table_replaces_another(before: dict[str, str], after: dict[str, str]) -> None:
    """Whoever is in both keeps what is known of it; who is not is named."""
    found = router.Router(8285, 1472)
    found.replace(router.pack([(subnet, host, 0) for subnet, host in before.items()]))
    known = dict(found.peers)
    gone = found.replace(router.pack([(subnet, host, 1) for subnet, host in after.items()]))
    assert {peer.endpoint[0] for peer in gone} == set(before.values()) - set(after.values())
    assert set(found.peers) == set(after.values())
    for name, peer in found.peers.items():
        assert peer is known.get(name, peer)
        assert peer.vector == 1
    for subnet in before:
        target = int(ipaddress.IPv4Network(subnet).network_address)
        peer = found.find(target)
        wanted = judge.owner(after, target.to_bytes(4, "big"))
        assert (peer.endpoint[0] if peer else None) == wanted


@pytest.mark.parametrize("around", ["10.5.0.0/16", "0.0.0.0/0", "10.5.1.0/24", "10.5.1.64/26"])
def test_our_own_subnet_is_nobody_elses(around: str) -> None:
    """Leases can overlap; whoever has one around ours does not speak for our pods."""
    with Worker((around, PEER, 0)) as worker:
        for source in (HERE, "10.5.1.77"):
            assert worker.receive(udp(source, HERE, 1, 2, b""), 0, PEER) == []
        sent, said = worker.send(bytes(10) + udp(HERE, "10.5.1.77", 1, 2, b""))
        assert not sent
        assert [frame.packet[20] for frame in said] == [3]


def test_looking_up_many_addresses_keeps_little() -> None:
    found = router.Router(8285, 1472)
    found.replace(router.pack([("10.0.0.0/8", "192.0.2.1", 0)]))
    for target in range(0x0A000000, 0x0A000000 + 200_000):
        assert found.find(target)
    assert len(found.cache) <= 1 << 16


# --- what it makes itself -------------------------------------------------------------------------


@given(st.binary(max_size=1400), st.sampled_from([b"", b"\x01" * 4, b"\x94\x04\0\0"]), words)
def test_errors_are_proper(payload: bytes, options: bytes, mtu: int) -> None:
    packet = udp(HERE, THERE, 1, 2, payload, options=options)
    source = int(ipaddress.IPv4Address("10.5.1.0"))
    answer = packets.icmp_error(3, 4, mtu, source, packet)
    assert answer
    found = Packet.parse(answer)
    assert (found.source, found.destination, found.protocol) == ("10.5.1.0", HERE, 1)
    assert found.summed()
    assert struct.unpack_from("!BB2xHH", found.payload) == (3, 4, 0, mtu)
    assert packet.startswith(found.payload[8:])
    assert len(answer) == min(576, 28 + len(packet))


@pytest.mark.parametrize("source", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_nobody_is_told_who_is_nobody(source: str) -> None:
    assert packets.icmp_error(3, 0, 0, 1, udp(source, THERE, 1, 2, b"")) is None
    assert packets.icmp_error(3, 0, 0, 1, udp(HERE, "239.1.2.3", 1, 2, b"")) is None


@given(
    st.binary(min_size=1, max_size=4000),
    st.sampled_from([b"", b"\x01\x01\x01\x01", b"\x94\x04\0\0\x07\x04\x04\0", b"\x44\x04\x05\0"]),
    st.integers(68, 1500),
    st.sampled_from([0, plain.MF, plain.MF | 7, 7]),
)
def test_fragments_are_the_packet(payload: bytes, options: bytes, mtu: int, frag: int) -> None:
    if frag & plain.MF:
        payload = payload[: max(len(payload) // 8 * 8, 8)].ljust(8)
    packet = plain.ipv4(HERE, THERE, 17, payload, frag=frag, options=options, ident=9)
    found = [Packet.parse(each) for each in packets.fragments(packet, mtu)]
    whole = bytearray()
    for each in found:
        assert len(each.raw) <= mtu
        assert each.ident == 9
        assert (each.flags & 0x1FFF) - (frag & 0x1FFF) == len(whole) // 8
        assert len(whole) % 8 == 0
        whole += each.payload
    assert bytes(whole) == payload
    assert all(each.flags & plain.MF for each in found[:-1])
    assert bool(found[-1].flags & plain.MF) == bool(frag & plain.MF)
    # Options that are to be in every fragment have their highest bit set.
    kept = [each.raw[20 : (each.raw[0] & 15) * 4] for each in found]
    assert kept[0] == options
    assert all((b"\x94" in each) == (b"\x94" in options) for each in kept)
    assert all(b"\x44" not in each and b"\x07" not in each for each in kept[1:])


@given(st.lists(st.floats(0, 3), max_size=200))
def test_a_limiter_allows_its_rate(pauses: list[float]) -> None:
    limiter = packets.Limiter(10, 5)
    now = 1000.0
    allowed = 0
    for pause in pauses:
        now += pause
        allowed += limiter.allows(now)
    assert allowed <= 5 + 10 * (now - 1000.0) + 1
