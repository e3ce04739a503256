# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random packets and streams come through as they were sent, batched or not.

What a relay makes of a packet is compared with what the independent peer makes of it, which carries
one at a time and has the kernel cut what was offloaded.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import typing as t
import zlib

import pytest

from tests.lab import Lab
from tests.relay.ends import HERE, THERE, Ends, ends, send
from tests.relay.flows import Flows, Offloaded
from tests.relay.hosts import Fleet
from tests.relay.packets import Packet, udp, unnumbered
from tests.relay.sockets import Frames, silence
from tests.relay.traffic import Tuning, datagrams, exchange, sysctls

# Another one in each run, but one for all of its workers, which must collect the same tests.
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(random.random())
SEED = int(os.environ.get("FLATNET_SEED", "0")) or zlib.crc32(_RUN.encode())
SEEDS = [SEED + number for number in range(int(os.environ.get("FLATNET_STREAMS", "4")))]

# What the two hosts have.
WAYS = {
    "plain to plain": ("plain", "plain"),
    "relay to relay": ("relay", "relay"),
    "vectors": ("vector", "vector"),
    "relay to plain": ("relay", "plain"),
    "plain to relay": ("plain", "relay"),
    "vectors on one side": ("vector", "relay"),
    "two workers": ("relay", "relay"),
    "two workers, vectors": ("vector", "vector"),
}
# Settings of relays.
SETTINGS = {way: {"workers": 2} for way in WAYS if "two workers" in way}
TROUBLES: dict[str, dict[str, float]] = {
    "none": {},
    "loss": {"loss": 0.01},
    "reordered": {"late": 0.05, "twice": 0.02},
    "all of it": {"loss": 0.005, "late": 0.02, "twice": 0.01, "spoil": 0.005},
}

# Of the last packet of those that are compared.
LAST = b"the last of them"

Packets = t.Sequence[t.Union[bytes, Offloaded]]


class Apart(t.NamedTuple):
    """Two hosts of the same addresses in labs of their own: the relay, and what it is compared
    with."""

    plain: Ends
    relay: Ends


@pytest.fixture(scope="module")
def apart(lab_factory: t.Callable[..., Lab]) -> t.Iterator[Apart]:
    with contextlib.ExitStack() as stack:
        found = [
            stack.enter_context(ends(lab_factory(hosts=2, etcd=0), kind))
            for kind in ("plain", "relay")
        ]
        yield Apart(*found)


def _by_flow(found: t.Iterable[bytes]) -> dict[t.Any, list[bytes]]:
    """Packets of different flows may overtake each other."""
    flows: dict[t.Any, list[bytes]] = {}
    for raw in found:
        flows.setdefault(Packet.parse(raw).flow, []).append(unnumbered(raw))
    return flows


def _same(expected: t.Iterable[bytes], found: t.Iterable[bytes], what: str) -> None:
    one, other = _by_flow(expected), _by_flow(found)
    for flow in {**one, **other}:
        left, right = one.get(flow, []), other.get(flow, [])
        for number, (this, that) in enumerate(zip(left, right)):
            assert this == that, "%s: packet %d of %s" % (what, number, flow)
        assert len(left) == len(right), "%s: packets of %s" % (what, flow)


def _rest(receive: t.Callable[..., list[bytes]], come: list[bytes], count: int) -> list[bytes]:
    """All that comes: what has come, until the last one is there, and as many as of the others."""
    while len(come) < count or not any(LAST in each for each in come):
        more = receive(1)
        assert more, "%d have come, and no more" % len(come)
        come = come + more
    return come + receive()


def _some(found: Packets) -> t.Iterator[Packets]:
    """As many at a time as fit in the smallest queue on the way."""
    for at in range(0, len(found), 150):
        yield found[at : at + 150]


@pytest.mark.parametrize("seed", SEEDS)
def test_packets_on_the_way_in(apart: Apart, seed: int) -> None:
    """Among them such as carry a wrong checksum of TCP or UDP, which have to stay wrong."""
    found = Flows(seed, THERE, HERE).mixed(40)
    come = []
    for way in apart:
        way.clear()
        here: list[bytes] = []
        for some in _some(found):
            way.wire.send_batches(t.cast("list[bytes]", some))
            here += way.pod.received(len(some))
        come.append(here + way.pod.received())
        way.host.check()
    assert len(come[0]) == len(found)
    _same(*come, "seed %d" % seed)
    wrong = [sum(not Packet.parse(each).summed() for each in here) for here in come]
    assert wrong[0] == wrong[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_packets_on_the_way_out(apart: Apart, seed: int) -> None:
    flows = Flows(seed, HERE, THERE)
    found: list[bytes | Offloaded] = []
    for packet in flows.mixed(20):
        found.append(packet)
        if flows.chance.random() < 0.1:
            found.append(flows.offloaded())
    come = []
    for way in apart:
        way.clear()
        here: list[bytes] = []
        for packet in found:
            send(way.pod, packet, way.mac)
            here += way.wire.received(quiet=0.0005 if isinstance(packet, bytes) else 0.004)
        send(way.pod, udp(HERE, THERE, 9, 9, LAST), way.mac)
        come.append(_rest(way.wire.received, here, len(come[0]) if come else 0))
        way.host.check()
    assert len(come[0]) > len(found)
    _same(*come, "seed %d" % seed)


# --- through both ends ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet(lab_factory: t.Callable[..., Lab]) -> t.Iterator[Fleet]:
    with Fleet(lab_factory(hosts=3, etcd=0)) as made:
        for each in made.hosts:
            each.segmented()
            silence(each.pod)
        yield made


@pytest.fixture(scope="module")
def through(fleet: Fleet) -> t.Iterator[t.Callable[[Packets, int], list[bytes]]]:
    """What of packets from the first host's pod comes to the second's."""
    one, other = fleet.hosts
    mac = one.mac()
    with Frames(one.pod) as sending, Frames(other.pod) as receiving:

        def pass_(found: Packets, count: int) -> list[bytes]:
            receiving.clear()
            come: list[bytes] = []
            for packet in found:
                send(sending, packet, mac)
                come += receiving.received(quiet=0.0005 if isinstance(packet, bytes) else 0.004)
            send(sending, udp(one.pod.address, other.pod.address, 9, 9, LAST), mac)
            return _rest(receiving.received, come, count)

        yield pass_


def test_packets_through_both_ends(
    fleet: Fleet, through: t.Callable[[Packets, int], list[bytes]]
) -> None:
    one, other = (each.pod.address for each in fleet.hosts)
    sent: dict[int, Packets] = {}
    for seed in SEEDS[:2]:
        flows = Flows(seed, one, other)
        offloaded = [flows.offloaded() for dummy in range(40)]
        sent[seed] = [*flows.mixed(10), *offloaded]
    expected: dict[int, list[bytes]] = {}
    for way, kinds in WAYS.items():
        fleet.carry(*kinds, **SETTINGS.get(way, {}))
        for seed, found in sent.items():
            come = through(found, len(expected.get(seed, [])))
            assert len(come) > len(found), way
            for each in fleet.hosts:
                each.check()
            if way == "plain to plain":
                expected[seed] = come
            else:
                _same(expected[seed], come, "%s, seed %d" % (way, seed))
        if kinds[0] == "vector":
            totals = fleet.hosts[0].ask("status")["totals"]
            assert bool(totals["tx_vectors"]) == (kinds[1] == "vector")


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("way", WAYS)
def test_connections(fleet: Fleet, way: str, trouble: str) -> None:
    """Both directions at once, each end's kernel with what it offers switched on and off."""
    chances = dict(TROUBLES[trouble])
    if "vectors" in way:
        # A packet in a vector has no checksum of its own.
        chances.pop("spoil", None)
    fleet.stop()
    by_way_of = fleet.forward(seed=SEED, **chances) if chances else ""
    fleet.carry(*WAYS[way], by_way_of=by_way_of, **SETTINGS.get(way, {}))
    one, other = (each.pod for each in fleet.hosts)
    chance = random.Random(SEED)
    size = 200_000 if trouble != "none" else 4_000_000
    for number in range(2):
        for pod in (one, other):
            sysctls(
                pod,
                tcp_ecn=chance.randrange(2),
                tcp_sack=chance.randrange(2),
                tcp_timestamps=chance.randrange(2),
            )
        several = [
            threading.Thread(
                target=_kept(failures := []),
                args=(one, other, size, SEED + 100 * number + each, Tuning.draw(chance)),
            )
            for each in range(2)
        ]
        for each in several:
            each.start()
        for each in several:
            each.join()
        assert not failures, (way, trouble, SEED, failures)


def _kept(failures: list[str]) -> t.Callable[..., None]:
    def run(*arguments: t.Any) -> None:
        try:
            exchange(*arguments)
        except (AssertionError, OSError) as error:
            failures.append(str(error))

    return run


@pytest.mark.parametrize("way", WAYS)
def test_datagrams(fleet: Fleet, way: str) -> None:
    fleet.stop()
    fleet.carry(*WAYS[way], **SETTINGS.get(way, {}))
    one, other = (each.pod for each in fleet.hosts)
    found = datagrams(one, other, 2000, SEED, 6000)
    assert sorted(found.came) == sorted(found.sent), (SEED, len(found.came), len(found.sent))


@pytest.mark.parametrize("way", [way for way in WAYS if "vector" not in way])
def test_spoilt_datagrams_are_not_taken_for_good(fleet: Fleet, way: str) -> None:
    fleet.stop()
    fleet.carry(*WAYS[way], by_way_of=fleet.forward(seed=SEED, spoil=0.2, late=0.01, loss=0.01))
    one, other = (each.pod for each in fleet.hosts)
    found = datagrams(one, other, 2000, SEED, 3000)
    assert not set(found.came) - set(found.sent), SEED
    assert 0.5 < len(found.came) / len(found.sent) < 0.95
