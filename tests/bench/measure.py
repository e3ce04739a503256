# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Timing, and what the results are written down as."""

from __future__ import annotations

import os
import statistics
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Row:
    """A line of the table. ``met`` is None where there is no target."""

    what: str
    figure: str
    limit: str = ""
    met: bool | None = None


@dataclass
class Part:
    """What the measurement of one target gave; ``series`` are (peers, seconds) for the picture."""

    title: str
    rows: list[Row] = field(default_factory=list)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def show(self, what: str, figure: str) -> None:
        self.rows.append(Row(what, figure))

    def hold(self, what: str, value: float, limit: float, form: t.Callable[[float], str]) -> None:
        """A figure that must not be above its limit."""
        self.rows.append(Row(what, form(value), "at most " + form(limit), value <= limit))

    def reach(self, what: str, value: float, limit: float, form: t.Callable[[float], str]) -> None:
        """A figure that must not be below its limit."""
        self.rows.append(Row(what, form(value), "at least " + form(limit), value >= limit))


def seconds(value: float) -> str:
    return "%.3f s" % value


def milliseconds(value: float) -> str:
    return "%.1f ms" % (value * 1000)


def times(value: float) -> str:
    return "%.2f x" % value


def percent(value: float) -> str:
    return "%.2f %%" % (value * 100)


def megabytes(value: float) -> str:
    return "%.1f MB" % (value / 1e6)


def count(value: float) -> str:
    return "%d" % value


def number(value: float) -> str:
    return "%.3f" % value


def timed(function: t.Callable[[], object]) -> float:
    start = time.monotonic()
    function()
    return time.monotonic() - start


def median(values: t.Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: t.Sequence[float], part: float) -> float:
    """The smallest value that so large a part of all is not above."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children that ended."""
    fields = Path("/proc/%d/stat" % pid).read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def resident(pid: int) -> int:
    """Resident memory in bytes."""
    for line in Path("/proc/%d/status" % pid).read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
