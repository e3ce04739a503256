# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random and spoilt datagrams and frames: no crash, nothing delivered that should not be, all
delivered that should, and no memory kept.

``FLATNET_FUZZ`` is how many (`make fuzz`: a million of each), ``FLATNET_SEED`` which.
"""

from __future__ import annotations

import os
import random
import time
import typing as t

import pytest

from tests.relay.flows import Flows
from tests.relay.judge import Judge, Spoiler
from tests.relay.packets import UDP, Packet, checksum, cut, head, hop, partial, unnumbered
from tests.relay.worker import GSO_TCP4, GSO_UDP_L4, OWN, Frame, Worker

COUNT = int(os.environ.get("FLATNET_FUZZ", "20000"))
SEED = int(os.environ.get("FLATNET_SEED", "0")) or random.randrange(1 << 30)
HERE, PLAIN, VECTOR = "10.5.1.9", "10.5.2.9", "10.5.3.9"
HOSTS = {PLAIN: "192.0.2.2", VECTOR: "192.0.2.3"}
TABLE = {
    "10.5.2.0/24": "192.0.2.2",
    "10.5.3.0/24": "192.0.2.3",
    "10.5.2.128/25": "192.0.2.4",
    "10.5.64.0/18": "192.0.2.2",
}
ADDRESSES = [HERE, PLAIN, VECTOR, "10.5.2.200", "10.5.99.1", "10.5.250.1", "10.4.1.1", "224.0.0.1",
             "255.255.255.255", "0.0.0.0", "127.0.0.1", "10.5.1.255"]  # fmt: skip
STRANGER = "192.0.2.99"
# What Python and its libraries may still take, once everything was seen.
KEPT = 8 << 20


def _worker() -> Worker:
    return Worker(*((subnet, host, int(host == "192.0.2.3")) for subnet, host in TABLE.items()))


def _memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Flat:
    """Memory must not grow after the first tenth of ``count``."""

    def __init__(self, worker: Worker, count: int = COUNT) -> None:
        self._count = count
        self._before = 0
        # It remembers so many destinations, and forgets them all.
        for address in range(1 << 16):
            worker.router.find(address)

    def look(self, done: int) -> None:
        if done >= self._count // 10 and not self._before:
            self._before = _memory()

    def check(self) -> None:
        if COUNT >= 500_000:  # else warming up is all there is
            assert _memory() - self._before < KEPT


def _together(found: t.Sequence[bytes]) -> t.Iterator[list[bytes]]:
    """Datagrams as UDP_GRO gives them: of one length, but for a shorter last one."""
    batch: list[bytes] = []
    for each in found:
        if batch and (
            len(each) > len(batch[0]) or len(batch[-1]) < len(batch[0]) or len(batch) == 44
        ):
            yield batch
            batch = []
        if each:
            batch.append(each)
    if batch:
        yield batch


def _given(worker: Worker, batch: t.Sequence[bytes], source: str) -> list[Frame]:
    length = len(batch[0]) if len(batch) > 1 else 0
    return worker.receive(b"".join(batch), length, source)


def test_datagrams() -> None:
    """What is delivered is exactly what a judge says who looks at one packet at a time."""
    chance = random.Random(SEED)
    spoiler = Spoiler(chance, ADDRESSES)
    judge = Judge(OWN, TABLE)
    done = delivered = unlucky = 0
    with _worker() as worker:
        flat = Flat(worker)
        while done < COUNT:
            source = chance.choice([PLAIN, PLAIN, PLAIN, "10.5.99.1", "10.5.2.200"])
            address = chance.choice(["192.0.2.2"] * 9 + ["192.0.2.3", STRANGER])
            found = Flows(chance.randrange(1 << 30), source, HERE).mixed(5)
            rate = chance.choice([0, 0.05, 0.3, 1])
            found = [spoiler.spoilt(each) if chance.random() < rate else each for each in found]
            if chance.random() < 0.2:
                found += [spoiler.garbage()] * chance.choice([1, 2, 9])
            # What looks like part of a vector is looked at by the next test.
            found = [each for each in found if each[:1] != b"\xf1"]
            for batch in _together(found):
                come = _given(worker, batch, address)
                good = [hop(each) for each in batch if judge.delivers(each, address)]
                cuts = [packet for frame in come for packet in frame.packets()]
                if list(map(unnumbered, cuts)) != list(map(unnumbered, good)):
                    assert _unlucky(cuts, good), (SEED, [each.hex() for each in batch])
                    unlucky += 1
                done += len(batch)
                delivered += len(good)
            flat.look(done)
        flat.check()
        assert unlucky <= 1 + COUNT // 200_000
        assert sum(worker.drops.values()) == done - delivered
        assert delivered > done // 20
        assert set(worker.drops) == {
            "malformed",
            "checksum",
            "source",
            "destination",
            "ttl",
            "unknown_peer",
        }


def _unlucky(come: list[bytes], good: list[bytes]) -> bool:
    """Packets that come together have their checksums looked at together, so that two wrong ones
    may pass, once in 65535 times, as one that is changed at random does."""
    wrong = [a for a, b in zip(come, good) if unnumbered(a) != unnumbered(b)]
    return len(come) == len(good) and len(wrong) > 1 and all(each[9] in (6, 17) for each in wrong)


def test_datagrams_of_vectors() -> None:
    """Parts of frames, spoilt, lost, repeated, mixed with packets. What comes out whole is what was
    put in, unless its bytes were changed; then it is still for here and from there."""
    chance = random.Random(SEED + 1)
    spoiler = Spoiler(chance, ADDRESSES)
    judge = Judge(OWN, {"10.5.2.0/24": "192.0.2.2"})
    done = whole = 0
    now = time.monotonic()
    with (
        Worker(("10.5.1.0/24", "192.0.2.1", 1), own="10.5.2.0/24") as there,
        Worker(("10.5.2.0/24", "192.0.2.2", 1)) as worker,
    ):
        flat = Flat(worker)
        while done < COUNT:
            flows = Flows(chance.randrange(1 << 30), PLAIN, HERE)
            parts: list[bytes] = []
            sent: set[bytes] = set()
            packets: set[bytes] = set()
            for dummy in range(chance.randrange(1, 4)):
                packet, size = flows.offloaded()
                if len(packet) - head(packet) <= size:
                    continue
                gso = GSO_UDP_L4 if packet[9] == UDP else GSO_TCP4
                frame = Frame(partial(packet), gso, size).to_bytes()
                parts += [data for data, dummy in there.send(frame)[0]]
                sent.add(hop(partial(packet), 2))
            rate = chance.choice([0, 0, 0.02, 0.5])
            kind = chance.randrange(4)
            if kind == 1:
                chance.shuffle(parts)
            elif kind == 2:
                parts = [each for each in parts for dummy in range(chance.choice([0, 1, 1, 1, 2]))]
            elif kind == 3:
                mixed = [each for each in flows.udp() if Packet.parse(each).summed()]
                parts += mixed
                packets = {unnumbered(hop(each)) for each in mixed}
            spoilt = False
            for number, each in enumerate(parts):
                if chance.random() < rate:
                    spoilt = True
                    parts[number] = _garbled(chance, spoiler, each)
            came = 0
            for batch in _together(parts):
                for frame in _given(worker, batch, "192.0.2.2"):
                    if frame.gso and not packets.issuperset(map(unnumbered, frame.packets())):
                        came += 1
                        assert spoilt or frame.packet in sent, SEED
                        header = frame.packet[: (frame.packet[0] & 15) * 4]
                        assert judge.delivers(_alone(header), "192.0.2.2") or header[8] == 1
                done += len(batch)
            if kind in (0, 1) and not rate:
                assert came == len(sent), SEED
            whole += came
            now += 2  # nothing is waited for any more
            if spoilt:
                # A frame may have had the number of the next one: its host goes, and comes anew.
                worker.replace()
            worker.receiver.tick(now)
            worker.replace(("10.5.2.0/24", "192.0.2.2", 1))
            for peer in there.router.peers.values():  # nobody answers it
                peer.vectors.paused = False  # type: ignore[union-attr]
            flat.look(done)
        flat.check()
        assert whole
        worker.receiver.tick(now + 1e9)
        assert worker.receiver._waiting.size == 0


def _alone(header: bytes) -> bytes:
    """A packet of this header alone, with the TTL that it had before it was delivered."""
    made = bytearray(header)
    made[2:4] = len(header).to_bytes(2, "big")
    made[8] = min(made[8] + 1, 255)
    made[10:12] = b"\0\0"
    made[10:12] = checksum(bytes(made)).to_bytes(2, "big")
    return bytes(made)


def _garbled(chance: random.Random, spoiler: Spoiler, part: bytes) -> bytes:
    """A part of a vector with another header, or cut off, or what is in it spoilt."""
    data = bytearray(part)
    kind = chance.randrange(5)
    if kind == 0:
        data[chance.randrange(min(len(data), 40))] = chance.randrange(256)
    elif kind == 1:
        del data[chance.randrange(1, len(data) + 1) :]
    elif kind == 2:
        data[1] = chance.choice([0, 1, 254, 255])
    elif kind == 3:
        data[12:] = spoiler.spoilt(bytes(data[12:]))
    else:
        data[4:8] = chance.randbytes(4)
    return bytes(data)


def test_frames() -> None:
    """From the device: each packet goes to whom the judge says, or nowhere."""
    chance = random.Random(SEED + 2)
    spoiler = Spoiler(chance, ADDRESSES)
    judge = Judge(OWN, TABLE)
    done = 0
    with _worker() as worker:
        flat = Flat(worker)
        while done < COUNT:
            target = chance.choice([PLAIN, VECTOR, "10.5.99.1", "10.5.2.200", "10.5.250.1"])
            flows = Flows(chance.randrange(1 << 30), HERE, target)
            found = flows.mixed(3)
            rate = chance.choice([0, 0.05, 0.3, 1])
            found = [spoiler.spoilt(each) if chance.random() < rate else each for each in found]
            found = [each[:1472] for each in found]
            sent, said = worker.send(*(bytes(10) + each for each in found))
            wanted = [(each, judge.sends_to(each)) for each in found]
            expected = [(_hopped(each), (to, 8285)) for each, to in wanted if to]
            assert [(_hopped(each, 0), to) for each, to in sent] == expected, SEED
            for answer in said:
                assert answer.packet[9] == 1
                assert not answer.gso
            done += len(found)
            flat.look(done)
        flat.check()


def _hopped(packet: bytes, hops: int = 1) -> bytes:
    """A hop later; the header's checksum left out if it was wrong, which is not for a relay to
    repair or to judge on the way out."""
    length = (packet[0] & 15) * 4
    if checksum(packet[:length]) == 0:
        return hop(packet, hops)
    return packet[:8] + bytes([packet[8] - hops]) + packet[9:10] + packet[12:]


@pytest.mark.parametrize("target", [PLAIN, VECTOR])
def test_offloaded_frames(target: str) -> None:
    """Whole ones come out as the kernel would cut them; broken ones do no harm."""
    chance = random.Random(SEED + 3)
    spoiler = Spoiler(chance, ADDRESSES)
    done = 0
    with _worker() as worker:
        flat = Flat(worker, COUNT // 20)
        while done < COUNT // 20:
            packet, size = Flows(chance.randrange(1 << 30), HERE, target).offloaded()
            if len(packet) - head(packet) <= size:
                continue
            gso = GSO_UDP_L4 if packet[9] == UDP else GSO_TCP4
            raw = Frame(partial(packet), gso, size).to_bytes()
            sent, dummy = worker.send(raw)
            if target == PLAIN:
                assert [data for data, dummy in sent] == [hop(each) for each in cut(packet, size)]
            assert {to for dummy, to in sent} == {(HOSTS[target], 8285)}
            spoilt = bytearray(raw[:10] + spoiler.spoilt(raw[10:]))
            if chance.random() < 0.5:
                spoilt[chance.randrange(10)] = chance.randrange(256)
            sent, dummy = worker.send(bytes(spoilt))
            assert all(len(data) <= 1472 for data, dummy in sent)
            for peer in worker.router.peers.values():
                if peer.vectors:
                    peer.vectors.paused = False
            done += 2
            flat.look(done)
        flat.check()
