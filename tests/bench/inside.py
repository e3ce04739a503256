# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a function of a part on a host of the lab, with the hosts' own Python.

    result = inside.call(host, "service", "converge", settings=…, repetitions=5)

In there the function takes the keywords and returns what is JSON; the rest of this package is at
its hand as well.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("FLATNET_TARGET_PYTHON", "/usr/bin/python3")


class Failed(Exception):
    """The function ended with an error, which is on standard error."""


def call(node: t.Any, module: str, function: str, **arguments: t.Any) -> t.Any:
    """Run ``tests.bench.<module>.<function>`` on a node of the lab."""
    argv = [PYTHON, "-m", "tests.bench.inside", module, function, json.dumps(arguments)]
    done = subprocess.run(
        node.command(["env", "PYTHONPATH=%s" % REPOSITORY, *argv]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failed("%s.%s failed on %s" % (module, function, node.name))
    return json.loads(done.stdout.splitlines()[-1])


def version_of(package: str, python: str) -> str:
    """As its installer says: Debian's pyroute2 calls its own version unknown."""
    program = "import importlib.metadata as m; print(m.version(%r))" % package
    return subprocess.check_output([python, "-c", program], text=True).strip()


def main() -> None:
    module, function, arguments = sys.argv[1:]
    found = getattr(importlib.import_module("tests.bench." + module), function)
    print(json.dumps(found(**json.loads(arguments))))


if __name__ == "__main__":
    main()
