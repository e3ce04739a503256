# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The results of a fleet's pings, for people: a sorted table, and the causes. Pure."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterable, Mapping, Sequence

from ..module_utils._flatnet import errors

Result = Mapping[str, t.Any]

#: How many lines of the table are shown. A fleet of N hosts has N * N pings.
MOST = 200

#: The roles' results in the order of their steps, and the role that each is of.
RESULTS = {
    "flatnet_prepare_host": "look",
    "flatnet_network_result": "network",
    "flatnet_network_info": "network",
    "flatnet_prepare_allowed": "prepare",
    "flatnet_prepare_interpreter": "prepare",
    "flatnet_prepare_installed": "prepare",
    "flatnet_prepare_complete": "prepare",
    "flatnet_prepare_loaded": "prepare",
    "flatnet_prepare_written": "prepare",
    "flatnet_prepare_forwarding": "prepare",
    "flatnet_prepare_buffered": "prepare",
    "flatnet_prepare_told": "prepare",
    "flatnet_lease": "lease",
    "flatnet_bridge_result": "bridge",
    "flatnet_backend_vtep": "backend",
    "flatnet_backend_relay": "backend",
    "flatnet_backend_left": "backend",
    "flatnet_backend_firewall": "backend",
    "flatnet_peers_result": "peers",
    "flatnet_lease_file": "lease",
    "flatnet_sync_result": "sync",
    "flatnet_verify_result": "verify",
    "flatnet_segment_info": "segment",
    "flatnet_segment_result": "segment",
}
_HEAD = ("from", "to", "address", "bytes", "answer")


class Failed(t.NamedTuple):
    """A host on which an earlier step failed. ``addresses`` are those that peers may know it by."""

    host: str
    cause: str
    addresses: frozenset[str]


class Report(t.NamedTuple):
    """``lines`` for people, ``sentence`` to end with."""

    lines: tuple[str, ...]
    sentence: str
    failed: bool


def plain(text: object) -> str:
    """The text on one line, without characters that would steer a terminal."""
    return errors.plain(" ".join(str(text).split()))


def cause(variables: Mapping[str, t.Any]) -> str:
    """Why a host failed: the error in the results that the roles registered."""
    for name, role in RESULTS.items():
        result = variables.get(name)
        if not isinstance(result, Mapping):
            continue
        if result.get("unreachable"):
            return "cannot be reached: %s" % plain(result.get("msg", ""))
        if result.get("failed"):
            items = [each for each in result.get("results", ()) if each.get("failed")]
            said = (items or [result])[0].get("msg", "")
            return "failed in the role %s: %s" % (role, plain(said))
    return "failed before; the error is above"


def by_name(name: str) -> list[tuple[int, int, str]]:
    """A sort key: host2 comes before host10."""
    parts = re.findall(r"(\d+)|(\D+)", name)
    return [(0, int(digits), "") if digits else (1, 0, text) for digits, text in parts]


def report(lost: Mapping[str, Result], failed: Sequence[Failed]) -> Report:
    """``lost`` has what the module overlay_ping returned, by host."""
    down = {address: each.host for each in failed for address in (each.host, *each.addresses)}
    rows, silent = [], dict.fromkeys((each.host for each in failed), 0)
    for host, result in lost.items():
        for each in result["lost"]:
            to = each.get("hostname") or ""
            culprit = down.get(each.get("public_ip", "")) or down.get(to)
            if culprit:
                silent[culprit] += 1
                continue
            row = (host, to or "?", each["address"], str(each["size"] or "any"), each["reason"])
            rows.append(tuple(map(plain, row)))
    rows.sort(key=lambda row: (by_name(row[0]), by_name(row[1]), row))
    lines = table(rows) + [
        "%s %s%s" % (each.host, each.cause, _silence(silent[each.host]))
        for each in sorted(failed, key=lambda each: by_name(each.host))
    ]
    if lines:
        told = [
            "%d peers did not answer" % len(rows) if rows else "",
            "%d hosts failed before" % len(failed) if failed else "",
        ]
        sentence = " and ".join(filter(None, told)) + "; the lines above name them"
        return Report(tuple(lines), sentence, True)
    return Report((), _success(lost), False)


def _success(results: Mapping[str, Result]) -> str:
    idle = {each["backend"] for each in results.values() if not each.get("carries", True)}
    if idle:
        return "nothing was pinged: the %s backend carries no packets from host to host" % (
            ", ".join(sorted(idle))
        )
    return "%d hosts reached all their peers, %d in all, also with packets of %d bytes" % (
        len(results),
        sum(each["pinged"] for each in results.values()),
        max((each["mtu"] for each in results.values()), default=0),
    )


def _silence(count: int) -> str:
    return " (so %d pings to it got no answer)" % count if count else ""


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows in aligned columns, below a headline."""
    if not rows:
        return []
    shown: Iterable[tuple[str, ...]] = [_HEAD, *rows[:MOST]]
    wide = [max(len(row[column]) for row in shown) for column in range(len(_HEAD) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, wide)), row[-1]])
        for row in shown
    ]
    more = len(rows) - MOST
    return lines + (["and %d more" % more] if more > 0 else [])
