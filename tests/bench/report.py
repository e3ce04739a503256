# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured: on the terminal, kept from run to run, and as a page of the documentation."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
import time
import typing as t
from collections.abc import Iterable, Sequence
from pathlib import Path

from .inside import PYTHON, REPOSITORY, version_of
from .measure import Part, Row

KEPT = REPOSITORY / ".cache" / "bench"
PAGE = REPOSITORY / "docs" / "performance.md"
PICTURE = REPOSITORY / "docs" / "performance.svg"
_BEGIN, _END = "<!-- written by make bench -->", "<!-- end of what make bench writes -->"


def show(part: Part, took: float, loads: Sequence[float]) -> None:
    """For whoever waits for it."""
    print("  %s" % part.title)
    for row in part.rows:
        verdict = {None: "", True: "met", False: "MISSED"}[row.met]
        print("    %-76s %10s   %-18s %s" % (row.what, row.figure, row.limit, verdict))
    print("    in %.0f s, load %s" % (took, load(loads)), flush=True)


def keep(name: str, part: Part, loads: Sequence[float]) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    found = {
        **dataclasses.asdict(part),
        "day": time.strftime("%Y-%m-%d"),
        "load": load(loads),
        "machine": machine(),
    }
    (KEPT / (name + ".json")).write_text(json.dumps(found, indent=1), encoding="utf-8")


def write(names: Iterable[str]) -> None:
    """Put the figures into the page, if all parts have been measured."""
    parts = {}
    for name in names:
        try:
            parts[name] = json.loads((KEPT / (name + ".json")).read_text(encoding="utf-8"))
        except FileNotFoundError:
            print("%s has not been measured yet: the documentation stays as it is" % name)
            return
    fill(_BEGIN, _END, _figures(parts))
    try:
        from . import picture  # noqa: PLC0415 - matplotlib is not among the tests' requirements
    except ImportError:
        print("No matplotlib (tests/bench/requirements.txt): the picture stays as it is")
        return
    series = {**parts["kernel"]["series"], **parts["service"]["series"]}
    picture.draw(series, PICTURE)


def fill(begin: str, end: str, figures: str) -> None:
    """Put them between these two lines of the page."""
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.compile("%s.*%s" % (re.escape(begin), re.escape(end)), re.DOTALL)
    block = "%s\n\n%s\n%s" % (begin, figures, end)
    PAGE.write_text(pattern.sub(lambda _match: block, text), encoding="utf-8")
    print("%s is written" % PAGE.relative_to(REPOSITORY))


def _figures(parts: dict[str, dict[str, t.Any]]) -> str:
    lines = []
    machines = sorted({part["machine"] for part in parts.values()})
    days = sorted({part["day"] for part in parts.values()})
    lines.append(measured(machines, days))
    for place, part in enumerate(parts.values(), 1):
        lines.append("### %d. %s\n" % (place, part["title"]))
        lines += judged(Row(**fields) for fields in part["rows"])
        lines.append(loaded(part["load"]))
    return "\n".join(lines)


def measured(machines: Sequence[str], days: Sequence[str]) -> str:
    return "Measured on %s, on %s.\n" % ("; ".join(machines), " and ".join(days))


def loaded(load: str) -> str:
    return "\nLoad of the machine before and after: %s.\n" % load


def judged(rows: Iterable[Row]) -> list[str]:
    """Figures beside their targets."""
    verdict = {None: "", True: "met", False: "**missed**"}
    cells = [(row.what, row.figure, row.limit, verdict[row.met]) for row in rows]
    return table(("figure", "measured", "target", ""), cells)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, *rows]
    text = ["| %s |" % " | ".join(cells) for cells in lines]
    return [text[0].replace("  |", " |"), "|%s" % ("---|" * len(heads)), *text[1:]]


def machine() -> str:
    """The machine, as far as it matters to the figures."""
    kernel = platform.release().partition("-")[0]
    versions = [
        "kernel %s" % kernel,
        "Python %s on the hosts"
        % _first(PYTHON, "-c", "import platform as p; print(p.python_version())"),
        "%s on the controller" % platform.python_version(),
        "pyroute2 %s" % version_of("pyroute2", PYTHON),
        "etcd %s" % _first("etcd", "--version").rpartition(" ")[2],
        "iproute2 %s" % _first("ip", "-V").rpartition("-")[2],
        "ansible-core %s" % version_of("ansible-core", sys.executable),
    ]
    return "%s, %d cores, %.0f GB; %s" % (
        _cpu(),
        os.cpu_count() or 1,
        _memory(),
        ", ".join(versions),
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _first(*argv: str) -> str:
    """The first line that a command prints."""
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return (done.stdout or done.stderr).splitlines()[0].strip()


def load(loads: Sequence[float]) -> str:
    return ", ".join("%.1f" % each for each in loads)
