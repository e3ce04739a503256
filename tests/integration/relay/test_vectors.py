# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Vectors: frames that go whole to relays that say they take them, and to nobody else."""

from __future__ import annotations

import typing as t

import pytest

from tests.lab import Lab
from tests.lab.waiting import wait
from tests.relay.hosts import Fleet, Peer, told
from tests.relay.traffic import exchange, flood


@pytest.fixture(scope="module")
def fleet(lab_factory: t.Callable[..., Lab]) -> t.Iterator[Fleet]:
    """Two relays, and a third host for a bad way between them."""
    with Fleet(lab_factory(hosts=3, etcd=0)) as made:
        yield made


def _totals(fleet: Fleet) -> dict[str, int]:
    totals: dict[str, int] = fleet.hosts[0].ask("status")["totals"]
    return totals


def _mode(fleet: Fleet) -> str:
    """How the first host sends frames to the second."""
    found = fleet.hosts[0].ask("status")
    assert len(found["peers"]) == 1, told(found)
    return str(found["peers"][0]["mode"])


def test_between_relays_that_both_take_them(fleet: Fleet) -> None:
    fleet.carry("vector", "vector")
    one, other = (each.pod for each in fleet.hosts)
    exchange(one, other, 10_000_000, 1)
    totals = _totals(fleet)
    assert totals["tx_vectors"] > 50
    assert totals["rx_vectors"] > 50
    assert _mode(fleet) == "vectors"
    assert not sum(fleet.hosts[1].drops()[why] for why in ("malformed", "parts", "refused"))


@pytest.mark.parametrize("kinds", [("vector", "relay"), ("relay", "vector"), ("vector", "plain")])
def test_not_if_one_of_them_does_not(fleet: Fleet, kinds: tuple[str, str]) -> None:
    fleet.carry(*kinds)
    one, other = (each.pod for each in fleet.hosts)
    exchange(one, other, 3_000_000, 2)
    totals = _totals(fleet)
    assert (totals["tx_vectors"], totals["rx_vectors"]) == (0, 0)
    assert _mode(fleet) == "packets"


def test_a_table_begins_and_ends_them(fleet: Fleet) -> None:
    """In the middle of a stream; nothing is lost by it."""
    fleet.carry("vector", "vector")
    one, other = fleet.hosts
    for vector in (0, 1, 0, 1):
        one.reload([Peer(other.subnet, other.address, vector)])
        before = _totals(fleet)["tx_vectors"]
        exchange(one.pod, other.pod, 2_000_000, vector)
        # Nothing gets lost on the way, so there is no falling back.
        assert _mode(fleet) == ("vectors" if vector else "packets")
        assert bool(_totals(fleet)["tx_vectors"] - before) == bool(vector)
    assert not sum(other.drops()[why] for why in ("malformed", "parts", "refused"))


def test_a_stream_that_is_there_when_they_begin(fleet: Fleet) -> None:
    """As after each start of a relay under load: so many frames that were not reported yet are no
    sign of a peer that is silent."""
    fleet.carry("vector", "vector")
    one, other = fleet.hosts
    with flood(one.pod, other.pod) as seconds:
        for dummy in range(3):
            one.reload([Peer(other.subnet, other.address, 0)])
            before = sum(seconds)
            wait(lambda before=before: sum(seconds) > before + 1_000_000, "packets")  # type: ignore[misc]
            vectors = _totals(fleet)["tx_vectors"]
            one.reload([Peer(other.subnet, other.address, 1)])
            wait(lambda vectors=vectors: _totals(fleet)["tx_vectors"] > vectors + 500, "vectors")  # type: ignore[misc]
            assert _mode(fleet) == "vectors"


@pytest.mark.parametrize("trouble", [{"loss": 0.02}, {"loss": 0.08}])
def test_packets_again_where_frames_are_lost(fleet: Fleet, trouble: dict[str, float]) -> None:
    """The receiver measures it and says so. Streams go on all the while."""
    fleet.stop()
    fleet.carry("vector", "vector", by_way_of=fleet.forward(seed=1, **trouble))
    one, other = (each.pod for each in fleet.hosts)
    with flood(one, other) as seconds:
        wait(lambda: "fallen back" in _mode(fleet), "falling back")
        before = sum(seconds)
        wait(lambda: sum(seconds) > before + 30_000, "more of the stream")
    exchange(one, other, 30_000, 3)


def test_packets_again_where_nothing_comes_back(fleet: Fleet) -> None:
    """A way that takes vectors from us, and reports from nobody: a host that went over to a plain
    peer before its lease said so."""
    fleet.carry("vector", "plain")
    one, other = fleet.hosts
    one.reload([Peer(other.subnet, other.address, 1)])
    exchange(one.pod, other.pod, 200_000, 4, seconds=60)
    assert "fallen back" in _mode(fleet) or not _totals(fleet)["tx_vectors"]
