# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules run on hosts of the lab, without the second that a playbook takes to get there.

The module's own file runs, under the host's interpreter, in the host's namespaces, with its
arguments in JSON, as Ansible does it. The interpreter is started once for a list of runs, each of
which is a process of its own.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import shutil
import tempfile
import typing as t
from pathlib import Path

from tests.integration import results as keys
from tests.lab import Host

COLLECTIONS = Path(__file__).resolve().parents[2] / ".cache" / "collections"
MODULES = "ansible_collections.flatnet.overlay.plugins.modules."

PYTHON = os.environ.get("FLATNET_TARGET_PYTHON", "/usr/bin/python3")

Result = dict[str, t.Any]

# For ``first``: the module's clock is an hour ahead of that of what it starts. To
# the module this looks as if somebody had set the host's clock back meanwhile.
CLOCK_SET_BACK = """
import time
now = time.time
time.time = lambda: now() + 3600
"""

RUNNER = """
import importlib, json, os, runpy, sys
from ansible.module_utils import basic
name, runs = json.load(sys.stdin)
# Its imports are done once, for all children.
importlib.import_module(name)
del sys.modules[name]
done = []
for arguments in runs:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 1)
        code = 1
        try:
            basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
            basic._ANSIBLE_PROFILE = "legacy"
            sys.argv = [name]
            runpy.run_module(name, run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        output = pipe.read()
    done.append([os.waitpid(child, 0)[1], output])
json.dump(done, sys.stdout)
"""


def run_module(
    host: Host,
    name: str,
    args: t.Mapping[str, t.Any],
    check: bool = False,
    diff: bool = True,
    first: str = "",
) -> Result:
    """Run one module; its result, with ``failed`` and ``changed`` always there."""
    return run_modules(host, name, [args], check, diff, first)[0]


def run_modules(
    host: Host,
    name: str,
    runs: t.Sequence[t.Mapping[str, t.Any]],
    check: bool = False,
    diff: bool = True,
    first: str = "",
) -> list[Result]:
    """Run a module once for each of these arguments, one after the other.

    Arguments may have ``_ansible_check_mode`` of their own. ``first`` is Python that the modules'
    process runs before all else.
    """
    options = {"_ansible_check_mode": check, "_ansible_diff": diff}
    done = host.exec(
        [PYTHON, "-c", first + RUNNER],
        stdin=json.dumps([MODULES + name, [{**options, **args} for args in runs]]),
        env=environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    results = []
    for status, output in json.loads(done.stdout):
        try:
            result = json.loads(output)
        except ValueError:
            raise AssertionError("no result of %s: %s%s" % (name, output, done.stderr)) from None
        assert (status != 0) == bool(result.get("failed")), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert keys.faults(name, result) == []
        # ansible-core 2.19 and later have more to say of a warning than its text.
        warnings = [
            each["event"]["msg"] if isinstance(each, dict) else each
            for each in result.get("warnings", ())
        ]
        results.append({"failed": False, "changed": False, **result, "warnings": warnings})
    return results


def environment() -> dict[str, str]:
    """What RUNNER needs."""
    return {**os.environ, "PYTHONPATH": "%s:%s" % (_ansible(), COLLECTIONS)}


_links: list[str] = []


def _ansible() -> str:
    """A folder with our Ansible and nothing else: the host has a pyroute2 of its own."""
    if not _links:
        (package,) = importlib.util.find_spec("ansible").submodule_search_locations  # type: ignore
        folder = tempfile.mkdtemp(prefix="flatnet-ansible-")
        atexit.register(shutil.rmtree, folder)
        os.symlink(package, os.path.join(folder, "ansible"))
        _links.append(folder)
    return _links[0]
