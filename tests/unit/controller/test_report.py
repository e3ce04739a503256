# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people are told of a fleet's pings, and of what failed before them."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.flatnet.overlay.plugins.plugin_utils import report, variables
from ansible_collections.flatnet.overlay.plugins.plugin_utils.report import Failed

ROLES = Path(__file__).resolve().parents[3] / "roles"


def lost(to: str, address: str = "10.5.1.1", size: int | None = None) -> dict[str, t.Any]:
    return {
        "hostname": to,
        "public_ip": "192.0.2." + to[4:],
        "address": address,
        "size": size,
        "reason": "no answer",
    }


def result(*each: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"lost": list(each), "pinged": 9, "mtu": 1450}


def test_a_table_is_sorted_as_people_count_and_its_columns_are_aligned() -> None:
    given = {
        "host10": result(lost("host2")),
        "host2": result(lost("host10"), lost("host9", "10.5.100.1", 1450)),
    }
    found = report.report(given, [])
    assert found.lines == (
        "from    to      address     bytes  answer",
        "host2   host9   10.5.100.1  1450   no answer",
        "host2   host10  10.5.1.1    any    no answer",
        "host10  host2   10.5.1.1    any    no answer",
    )
    assert found.sentence == "3 peers did not answer; the lines above name them"
    assert found.failed


def test_a_fleet_that_answers_is_one_sentence() -> None:
    found = report.report({"host1": result(), "host2": result()}, [])
    assert found.lines == ()
    assert not found.failed
    assert found.sentence.startswith("2 hosts reached all their peers, 18 in all, also with")


@pytest.mark.parametrize("known_as", ["host3", "192.0.2.3"])
def test_a_host_that_failed_before_takes_the_place_of_the_pings_to_it(known_as: str) -> None:
    peer = {**lost("host3"), "hostname": "host3" if known_as == "host3" else "renamed"}
    given = {"host1": result(peer, lost("host2")), "host2": result(peer)}
    found = report.report(given, [Failed("host3", "failed: x", frozenset([known_as]))])
    assert found.lines[1:] == (
        "host1  host2  10.5.1.1  any    no answer",
        "host3 failed: x (so 2 pings to it got no answer)",
    )
    assert found.sentence.startswith("1 peers did not answer and 1 hosts failed before")


def test_a_large_fleet_is_told_by_its_first_lines() -> None:
    given = {"host%d" % each: result(lost("host1")) for each in range(300)}
    found = report.report(given, [])
    assert len(found.lines) == report.MOST + 2
    assert found.lines[-1] == "and 100 more"


def test_what_leases_and_hosts_say_cannot_act_on_a_terminal() -> None:
    peer = {**lost("host3"), "hostname": "a\x1b[2Jb\nc", "reason": "\x07no"}
    found = report.report({"host1": result(peer)}, [])
    assert all(line.isprintable() for line in found.lines)


@pytest.mark.parametrize(
    ("variables_of_the_host", "told"),
    [
        ({}, "failed before; the error is above"),
        (
            {"flatnet_prepare_host": {"unreachable": True, "msg": "no\nroute"}},
            "cannot be reached: no route",
        ),
        (
            {"flatnet_prepare_host": {}, "flatnet_lease": {"failed": True, "msg": "full"}},
            "failed in the role lease: full",
        ),
        (
            {
                "flatnet_prepare_told": {
                    "failed": True,
                    "msg": "One or more items failed",
                    "results": [{"failed": False}, {"failed": True, "msg": "no such unit"}],
                }
            },
            "failed in the role prepare: no such unit",
        ),
    ],
)
def test_the_cause_is_what_the_step_said(variables_of_the_host: t.Any, told: str) -> None:
    assert report.cause(variables_of_the_host) == told


def test_every_result_that_a_role_registers_may_be_the_cause() -> None:
    registered = set()
    for path in sorted(ROLES.glob("*/tasks/*.yml")):
        if path.stem in ("absent", "refresh"):
            continue
        for task in yaml.safe_load(path.read_text(encoding="utf-8")):
            action = next(name for name in task if "." in name)
            # These fail for a whole fleet, or not at all, or have tasks of their own.
            if action.rpartition(".")[2] in (
                "import_tasks",
                "include_tasks",
                "import_role",
                "include_role",
                "debug",
                "check_variables",
                "report_pings",
            ):
                continue
            assert "register" in task, f"{path}: {task['name']}"
            registered.add(task["register"])
    assert registered == set(report.RESULTS)
    assert registered <= variables.INTERNAL
