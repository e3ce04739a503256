# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking a relay that may be anybody: one deadline, a limit, and nothing believed unseen."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay import report
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay.config import (
    RelaySettings,
    RelayTable,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay.control import (
    RelayGone,
    RelayUnavailable,
    ask,
)

from tests.relay import impostor
from tests.relay.impostor import Answer, Impostor

SETTINGS = RelaySettings("flannel0", "10.5.1.0", "10.5.1.0/24", "10.5.0.0/16", "192.0.2.1", 1472)
STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "pid": 7,
    "started": 1.5,
    "settings": SETTINGS._asdict(),
    "offload": {"device": "tso", "udp_segment": True, "udp_gro": True, "receive_buffer": 1},
    "workers": 1,
    "table": {"revision": 3, "peers": 1, "digest": RelayTable().digest},
    "table_error": "",
    "totals": dict.fromkeys(
        ("tx_packets", "tx_bytes", "tx_vectors", "rx_packets", "rx_bytes", "rx_vectors"), 0
    ),
    "drops": {"ttl": 2},
    "icmp_sent": 0,
    "peers": [],
}
PEER: dict[str, Any] = {
    "address": "192.0.2.2",
    "subnets": ["10.5.2.0/24"],
    "mode": "vectors",
    "mtu": 1472,
    **STATUS["totals"],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


def _said(path: Path, answer: Answer, command: str = "summary", timeout: float = 1.0) -> str:
    """What is said of an answer that is refused: a sentence without control characters."""
    with Impostor(path, answer), pytest.raises(RelayUnavailable) as caught:
        ask(str(path), command, timeout)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 1000
    return text


@pytest.mark.parametrize("command", ["status", "summary", "reload"])
def test_an_answer_that_is_good(path: Path, command: str) -> None:
    wanted = STATUS["table"] if command == "reload" else {**STATUS, "peers": [PEER]}
    with Impostor(path, impostor.saying(json.dumps(wanted).encode() + b"\n")):
        found = ask(str(path), command)
    assert found == wanted
    if command == "status":
        assert "192.0.2.2" in report.table(found)
        assert "192.0.2.2" in report.metrics(found)


def test_nobody_there(path: Path) -> None:
    for prepare in (lambda: None, path.touch, _abandoned(path)):
        prepare()
        with pytest.raises(RelayGone, match="no relay answers at"):
            ask(str(path), "summary")


def _abandoned(path: Path) -> Any:
    def leave() -> None:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))

    return leave


@pytest.mark.parametrize("answer", [impostor.slowly, impostor.never])
def test_one_deadline_for_all_of_it(path: Path, answer: Answer) -> None:
    """Not one for each byte: an answer that never ends is given up."""
    assert "does not answer within 0.5 seconds" in _said(path, answer, timeout=0.5)


def test_a_queue_that_is_full_is_waited_for_until_then(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        others = [socket.socket(socket.AF_UNIX) for dummy in range(4)]
        try:
            for each in others:
                each.setblocking(False)
                each.connect_ex(str(path))
            with pytest.raises(RelayUnavailable, match="does not answer within"):
                ask(str(path), "summary", 0.3)
        finally:
            for each in others:
                each.close()


@pytest.mark.parametrize("command", ["summary", "status"])
def test_no_more_is_read_than_an_answer_can_have(path: Path, command: str) -> None:
    said = _said(path, impostor.saying(impostor.LONG), command, timeout=60)
    assert "more than %d bytes" % (64 << (20 if command == "status" else 10)) in said


@pytest.mark.parametrize(
    "answer",
    [
        impostor.NESTED,
        impostor.NESTED_OBJECTS,
        impostor.ODD,
        b"[]\n",
        b"7\n",
        b"\xff\xfe\n",
        b"NaN\n",
        b"{}\n",
        b'{"error": ["' + b"x" * 5000 + b'"]}\n',
        b'{"error": "' + b"x" * 5000 + b'"}\n',
        impostor.ESCAPES,
    ],
    ids=lambda answer: answer[:20].decode(errors="replace"),
)
def test_what_is_no_answer(path: Path, answer: bytes) -> None:
    for command in ("status", "summary", "reload"):
        _said(path, impostor.saying(answer), command)


def test_an_answer_that_ends_early(path: Path) -> None:
    assert "ended while it answered" in _said(path, impostor.saying(b'{"table": '))


def test_who_is_let_go_without_a_word_asks_again(path: Path) -> None:
    """Until the time is over, which may be between two questions or within one."""
    with Impostor(path, impostor.saying(b"")) as relay, pytest.raises(RelayUnavailable) as caught:
        ask(str(path), "summary", 3.0)
    assert relay.asked > 1
    assert re.search("ended while it answered|does not answer within 3 seconds", str(caught.value))


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.1\x1b[2J"},
        {"table_error": "a\nERROR b"},
        {"more": ["\x07"]},
        {"\x1b": 1},
        {"more": [[[[[[[[1]]]]]]]]},
        {"pid": "7"},
        {"pid": True},
        {"pid": 10**30},
        {"started": 1e999},
        {"settings": {}},
        {"offload": None},
        {"drops": {"ttl": "many"}},
        {"totals": []},
        {"peers": [{**PEER, "mtu": None}]},
        {"peers": [{**PEER, "mode": "\x1b[31m"}]},
        {"peers": {}},
        {"table": {"revision": 3, "peers": 1}},
    ],
    ids=str,
)
def test_an_answer_with_a_value_that_is_none(path: Path, change: dict[str, Any]) -> None:
    text = json.dumps({**STATUS, "peers": [PEER], **change}).replace("Infinity", "1e999")
    assert "not that of a relay of this version" in _said(
        path, impostor.saying(text.encode() + b"\n"), "status"
    )
