# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of fping's answers."""

from __future__ import annotations

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.ping import (
    Lost,
    PingFailed,
    explain,
    ping,
)

# As fping 5.1 writes them.
ERRORS = """\
ICMP Host Unreachable from 10.9.0.2 for ICMP Echo sent to 10.8.0.5
ICMP Network Unreachable from 10.9.0.2 for ICMP Echo sent to 10.8.0.7
"""


class Fping:
    """Stands for fping: ``answers`` are (code, stdout, stderr) of one call after the other."""

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[list[str], list[str]]] = []

    def __call__(self, command: list[str], text: str) -> tuple[int, str, str]:
        self.calls.append((command, text.split()))
        return self.answers.pop(0)


def test_the_reason_is_a_routers_where_there_is_one() -> None:
    assert explain("10.8.0.5\n10.8.0.7\n10.8.0.9\n", ERRORS) == {
        "10.8.0.5": "ICMP Host Unreachable, says 10.9.0.2",
        "10.8.0.7": "ICMP Network Unreachable, says 10.9.0.2",
        "10.8.0.9": "no answer",
    }


def test_who_answers_gets_packets_of_the_full_mtu() -> None:
    fping = Fping((1, "10.5.2.1\n", ""), (1, "10.5.3.1\n", ""))
    lost = ping(fping, "fping", "10.5.1.1", ["10.5.2.1", "10.5.3.1", "10.5.4.1"], 1450)
    assert lost == [Lost("10.5.2.1", None, "no answer"), Lost("10.5.3.1", 1450, "no answer")]
    (small, everyone), (large, alive) = fping.calls
    assert everyone == ["10.5.2.1", "10.5.3.1", "10.5.4.1"]
    assert alive == ["10.5.3.1", "10.5.4.1"]
    assert small[:3] == large[:3] == ["fping", "-S", "10.5.1.1"]
    # The size that fping is given is without IPv4's and ICMP's headers.
    assert large[3:6] == ["-M", "-b", "1422"]


def test_nobody_to_ping_is_no_process() -> None:
    fping = Fping()
    assert ping(fping, "fping", "10.5.1.1", [], 1450) == []
    assert fping.calls == []


def test_an_error_of_fping_is_told() -> None:
    fping = Fping((4, "", "fping: cannot bind source address"))
    with pytest.raises(PingFailed, match=r"failed \(4\): fping: cannot bind source address"):
        ping(fping, "fping", "10.5.1.1", ["10.5.2.1"], 1450)
