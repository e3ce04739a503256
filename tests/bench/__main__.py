# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command: measures all targets, or some of them, and writes the results down.

Results are kept in .cache/bench, a file for each part. When all parts have been measured in full,
docs/performance.md gets its table and its picture from them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time

from . import report

# In the order of the targets; each is a module here with measure(name of the lab, quick).
PARTS = ("kernel", "service", "module", "watch", "site", "acquire", "segment")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="%s; default: all" % ", ".join(PARTS)
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions, small sizes")
    parser.add_argument("--report", action="store_true", help="only write what was measured before")
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error("there is no part %s" % ", ".join(sorted(unknown)))
    if os.geteuid() != 0:
        print("The benchmarks build network namespaces: run them as root", file=sys.stderr)
        return 1
    for name in () if given.report else given.parts or PARTS:
        print("%s …" % name, flush=True)
        start = time.monotonic()
        loads = [os.getloadavg()[0]]
        part = importlib.import_module("tests.bench." + name).measure("bench-" + name, given.quick)
        loads.append(os.getloadavg()[0])
        report.show(part, time.monotonic() - start, loads)
        if not given.quick:
            report.keep(name, part, loads)
    if not given.quick:
        report.write(PARTS)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
