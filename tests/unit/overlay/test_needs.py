# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses a host has to reach apart from the overlay."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Address,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import needs

HERE = [Address("eth0", "192.0.2.7/24")]
ROUTES = [
    Route("0.0.0.0/0", "eth0", "192.0.2.1"),
    Route("198.51.100.0/24", "eth0", "192.0.2.2"),
    # A flanneld's: the overlay's own hops.
    Route("10.5.3.0/24", "flannel.1", "10.5.3.0", onlink=True),
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("_RESOLVERS", "_CLOCKS"):
        monkeypatch.setattr(needs, name, (str(tmp_path / name), str(tmp_path / "none")))
    return tmp_path


def test_what_is_known_without_asking_anybody(files: Path) -> None:
    (files / "_RESOLVERS").write_text(
        "# nameserver 1.2.3.4\nnameserver 10.9.0.2\n nameserver 127.0.0.53\nnameserver fd00::1\n"
    )
    (files / "_CLOCKS").write_text("pool 10.9.0.3 iburst\nNTP=time.example 10.9.0.4\n#NTP=10.9.9.9")
    endpoints = ["http://10.9.0.1:2379", "https://etcd.invalid:2379", "http://127.0.0.1:2379"]
    found = needs.Needs(endpoints, ["203.0.113.5"]).look(HERE, ROUTES)
    assert found == {
        "10.9.0.1": "an address of etcd",
        "192.0.2.1": "a gateway of this host",
        "192.0.2.2": "a gateway of this host",
        "10.9.0.2": "a resolver of this host",
        "10.9.0.3": "a time server of this host",
        "10.9.0.4": "a time server of this host",
        "203.0.113.5": "where this host is managed from",
    }


def test_an_endpoint_with_a_name_is_where_connections_lead() -> None:
    found = needs.Needs(["http://etcd.invalid:2379"])
    found.resolve(30)
    assert found.look([], []) == {}
    found.seen(["::ffff:10.9.0.8", "fd00::1", "10.9.0.9"])
    assert set(found.look([], [])) == {"10.9.0.8", "10.9.0.9"}
    local = needs.Needs(["http://localhost:2379"])
    local.resolve(30)
    assert local.etcd == set()


@pytest.mark.parametrize("name", ["SSH_CONNECTION", "SSH_CLIENT"])
def test_the_controller_is_who_has_logged_in(name: str) -> None:
    assert needs.controllers({name: "203.0.113.5 50000 22"}) == ["203.0.113.5"]
    assert needs.controllers({name: "::ffff:203.0.113.5 50000 22"}) == ["203.0.113.5"]


def test_what_is_in_the_overlay_already_is_no_reason_to_leave_it(files: Path) -> None:
    (files / "_RESOLVERS").write_text("nameserver 10.5.9.53\nnameserver 10.5.8.53\n")
    overlaid = {"10.5.9.53", "10.5.9.1"}
    found = needs.Needs(["http://10.5.9.1:2379"], ["10.5.9.7"], overlaid.__contains__)
    wanted = {
        # With etcd inside a tunnel, not even taking the lease back would help.
        "10.5.9.1": "an address of etcd",
        "10.5.8.53": "a resolver of this host",
        "10.5.9.7": "where this host is managed from",
    }
    assert found.look([], []) == wanted
    # Also while the peer is away that has it.
    overlaid.clear()
    assert found.look([], []) == wanted
    # What nobody names any more is forgotten.
    (files / "_RESOLVERS").write_text("")
    assert "10.5.9.53" not in found.look([], [])
    assert found.within == frozenset()


def test_what_names_of_etcd_stand_for_does_not_grow_without_end() -> None:
    found = needs.Needs(["http://10.9.0.1:2379"])
    found.seen(["10.9.0.2"])
    for number in range(1000):
        found.seen(["10.8.%d.%d" % (number // 200, number % 200 + 1), "10.9.0.2"])
    assert len(found.etcd) == 65
    assert {"10.9.0.1", "10.9.0.2", "10.8.4.200"} <= found.etcd


def test_a_silent_name_server_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    def getaddrinfo(*_arguments: object) -> list[object]:
        answers.wait()
        return [(2, 1, 6, "", ("10.9.0.7", 0))]

    monkeypatch.setattr(needs.socket, "getaddrinfo", getaddrinfo)
    found = needs.Needs(["http://etcd.example:2379"])
    found.resolve(0.01)
    assert found.etcd == frozenset()
    answers.set()
    found.resolve(30)
    assert found.etcd == {"10.9.0.7"}
