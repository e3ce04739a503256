# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the resident program says about itself, and whom it retains."""

from __future__ import annotations

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils import retention, status
from ansible_collections.flatnet.overlay.plugins.module_utils.entries import Neigh
from ansible_collections.flatnet.overlay.plugins.module_utils.flannel import Lease
from ansible_collections.flatnet.overlay.plugins.module_utils.plan import Change
from ansible_collections.flatnet.overlay.plugins.module_utils.retention import Retention
from ansible_collections.flatnet.overlay.plugins.module_utils.status import Status


def shown(given: Status, running: bool = True) -> str:
    return status.table({**given.to_dict(), "pid": 7, "running": running})


def test_a_program_that_knows_nothing_yet_can_be_shown() -> None:
    given = Status()
    given.failed("etcd", "etcd cannot be reached")
    assert "service         not running" in shown(given, running=False)
    assert "ERROR           etcd cannot be reached (since " in shown(given)
    assert "flatnet_errors 1\n" in status.metrics(given.to_dict())


def test_a_failure_is_news_once_and_keeps_its_beginning() -> None:
    given = Status()
    assert given.failed("etcd", "away")
    since = given.to_dict()["errors"][0]["since"]
    assert not given.failed("etcd", "away")
    assert given.failed("etcd", "still away")
    assert given.to_dict()["errors"] == [{"what": "etcd", "text": "still away", "since": since}]
    given.healed("etcd")
    given.healed("etcd")
    assert given.to_dict()["errors"] == []


def test_the_last_repairs_are_kept_and_all_are_counted() -> None:
    given = Status()
    changes = tuple(
        Change(None, Neigh("flannel.1", "10.5.%d.0" % number, "02:00:00:00:00:01"))
        for number in range(30)
    )
    for _round in range(3):
        given.repaired(changes)
    found = given.to_dict()
    assert found["repaired"] == 90
    assert len(found["repairs"]) == 20
    assert "drift repaired  90" in shown(given)
    assert "flatnet_drift_repaired_total 90\n" in status.metrics(found)


def lease(number: int, host: str = "", address: int = 0) -> Lease:
    ip = "192.0.2.%d" % (address or number)
    return Lease("10.5.%d.0/24" % number, ip, "host-gw", host_id=host)


@pytest.fixture
def kept() -> Retention:
    made = Retention(60)
    assert made.keep([lease(1, "a"), lease(2, "b"), lease(3)])
    assert not made.keep([lease(4)])
    return made


def test_retained_peers_go_when_they_are_named_again(kept: Retention) -> None:
    assert kept.see([lease(1, "a")]) == []
    assert sorted(kept.leases) == ["10.5.2.0-24", "10.5.3.0-24", "10.5.4.0-24"]


def test_retained_peers_go_when_their_host_has_another_lease(kept: Retention) -> None:
    assert kept.see([lease(9, "b"), lease(8, address=3)]) == ["10.5.2.0-24", "10.5.3.0-24"]
    assert sorted(kept.leases) == ["10.5.1.0-24", "10.5.4.0-24"]


def test_retained_peers_go_in_the_end(kept: Retention, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept.expire() == 0
    until = kept.until
    later = Retention(60)
    later.resume(kept.leases.values(), until)
    monkeypatch.setattr(retention.time, "time", lambda: until + 1)
    assert later.expire() == 4
    assert later.expire() == 0
    assert later.leases == {}
