# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Target 5: site.yml on a fleet that doubles."""

from __future__ import annotations

import typing as t

from tests.lab import Lab

from .inside import REPOSITORY
from .measure import Part
from .play import Cost, play

# What a host may cost more in a fleet of four times the size, and still count as flat.
FLAT = 1.25


def measure(name: str, quick: bool) -> Part:
    part = Part("`site.yml` on a fleet")
    sizes = [5, 10] if quick else [25, 50, 100]
    runs: dict[str, list[Cost]] = {"first run": [], "no-change run": []}
    for size in sizes:
        with Lab(name, hosts=size) as lab:
            inventory = lab.inventory()
            for label, costs in runs.items():
                cost = play(
                    REPOSITORY / "playbooks" / "site.yml", inventory, lab.directory / "cost.jsonl"
                )
                costs.append(cost)
                _check(cost, label)
    for label, costs in runs.items():
        _rows(part, label, sizes, costs)
    return part


def _check(cost: Cost, label: str) -> None:
    if label == "no-change run" and cost.changed:
        raise RuntimeError("the second run made %d changes" % cost.changed)


def _rows(part: Part, label: str, sizes: t.Sequence[int], costs: t.Sequence[Cost]) -> None:
    """Per host, one figure for each size; it has to be flat."""
    hosts = "/".join(map(str, sizes))
    figures: tuple[tuple[str, str, t.Callable[[Cost, int], float]], ...] = (
        ("wall seconds", "%.2f", lambda cost, size: cost.wall / size),
        ("controller CPU seconds", "%.2f", lambda cost, size: cost.cpu / size),
        ("the host's CPU seconds", "%.2f", lambda cost, size: cost.hosts / size),
        ("tasks", "%.1f", lambda cost, size: len(_ran(cost)) / size),
        ("kB sent", "%.0f", lambda cost, size: cost.sent / size / 1000),
    )
    for what, form, per_host in figures:
        values = [per_host(cost, size) for cost, size in zip(costs, sizes)]
        text = ", ".join(form % value for value in values)
        growth = values[-1] / values[0]
        part.hold(
            "%s, %s per host with %s hosts: %s; the last to the first" % (label, what, hosts, text),
            growth,
            FLAT,
            lambda value: "%.2f x" % value,
        )
    part.show("%s, wall seconds" % label, ", ".join("%.0f" % cost.wall for cost in costs))
    for task, total in costs[-1].slowest()[:6]:
        share = total / sum(seconds for _task, seconds in costs[-1].slowest())
        part.show("%s, %d hosts: share of %r" % (label, sizes[-1], task), "%.0f %%" % (share * 100))


def _ran(cost: Cost) -> list[dict[str, t.Any]]:
    return [each for each in cost.results if not each.get("skipped")]
