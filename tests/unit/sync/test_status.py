# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the resident program says about itself, and whom it retains."""

from __future__ import annotations

import json

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import Lease
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host import journal
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import Neigh
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import Change
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay import report
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync import retention, status
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.retention import (
    Left,
    Retention,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.status import Status


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


class Clocks:
    """A machine's: the wall's, which anybody may set, and that of the boot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.since, self.boot = 1.7e9, 5000.0, "first"
        monkeypatch.setattr(retention.time, "time", lambda: self.wall)
        monkeypatch.setattr(retention.time, "clock_gettime", lambda _clock: self.since)
        monkeypatch.setattr(retention, "_boot", lambda: self.boot)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.since += seconds

    def reboot(self) -> None:
        self.boot, self.since = self.boot + "'", 20.0


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def restarted(kept: Retention, seconds: float = 60) -> Retention:
    """As the next process has it, from what the state has."""
    later = Retention(seconds)
    later.resume(kept.leases.values(), Left(*json.loads(json.dumps(kept.left))))
    return later


def test_retained_peers_go_in_the_end(clocks: Clocks, kept: Retention) -> None:
    clocks.pass_by(30)
    assert kept.expire() == 0
    later = restarted(kept)
    clocks.pass_by(29)
    assert later.expire() == 0
    clocks.pass_by(2)
    assert later.expire() == 4
    assert later.expire() == 0
    assert later.leases == {}


@pytest.mark.parametrize("years", [20, -20])
@pytest.mark.parametrize("boots", [False, True])
def test_a_clock_that_jumps_neither_ends_retention_nor_draws_it_out(
    clocks: Clocks, kept: Retention, years: int, boots: bool
) -> None:
    """Bad luck: a clock 20 years ahead, set right after or before a boot, made 600 s 7,300 days."""
    jump = years * 365 * 86400
    clocks.wall += jump
    clocks.pass_by(20)
    left = kept.left
    clocks.wall -= jump
    if boots:
        clocks.wall += 2 * jump
        clocks.reboot()
    later = Retention(60)
    later.resume(kept.leases.values(), left)
    clocks.wall -= jump
    clocks.pass_by(39)
    assert later.expire() == 0
    clocks.pass_by(2)
    assert later.expire() == 4


def test_what_is_left_is_never_more_than_the_setting(clocks: Clocks, kept: Retention) -> None:
    later = restarted(kept, 10)
    clocks.pass_by(11)
    assert later.expire() == 4
    endless = Retention(60)
    endless.resume(kept.leases.values(), Left(float("inf")))
    clocks.pass_by(61)
    assert endless.expire() == 4


def test_what_is_left_is_told_a_tenth_at_a_time(clocks: Clocks, kept: Retention) -> None:
    """By that the state is written anew, so that boots do not begin it again."""
    told = []
    for _second in range(70):
        told.append(kept.tenths)
        clocks.pass_by(1)
    assert told == sorted(told, reverse=True)
    assert set(told) == set(range(11))
    kept.expire()
    assert kept.tenths == 0


# --- what others say ----------------------------------------------------------------------------

NASTY = "10.5.9.0-24\x1b[2J\nERROR           all is lost\r\u202e\x9b\udc80" + "A" * 100_000


def test_the_status_for_a_person_is_plain_text() -> None:
    """Who writes keys steers no terminal and fakes no line, with keys, values or errors."""
    given = Status()
    given.failed("etcd", NASTY)
    found = {**given.to_dict(), "running": False, "unused": [f"key {NASTY}: no lease"] * 500}
    text = status.table(found)
    lines = text.split("\n")
    assert text.replace("\n", "").isprintable()
    assert sum(line.startswith("ERROR") for line in lines) == 1
    assert max(map(len, lines)) < 1200
    assert len(lines) < 150
    assert "400 more" in text
    assert json.dumps(found).isprintable()


def test_a_line_of_the_journal_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    journal.log(journal.ERROR, "key %s is not used" % NASTY)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert len(line) < 1200
    assert "\\x1b[2J" in line


def test_what_a_relay_says_is_plain_text_too() -> None:
    """A relay that was taken over by somebody is shown on root's terminal."""
    found = {
        "settings": {
            "device": NASTY,
            "mtu": 1,
            "subnet": "x",
            "listen": "x",
            "port": 1,
            "vector": True,
        },
        "offload": {"device": NASTY, "udp_segment": True, "udp_gro": True, "receive_buffer": 1},
        "totals": dict.fromkeys(("tx_packets", "tx_bytes", "rx_packets", "rx_bytes"), 1),
        "table": {"peers": 1, "revision": 1},
        "pid": 1,
        "workers": 1,
        "icmp_sent": 0,
        "drops": {NASTY: 1},
        "started": 0,
        "table_error": NASTY,
        "peers": [],
    }
    text = report.table(found)
    assert text.replace("\n", "").isprintable()
    assert sum(line.startswith("ERROR") for line in text.split("\n")) == 1
