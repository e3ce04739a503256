# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules and runs that are killed between two steps of what they change.

A step is a file below /etc that is renamed or removed, a folder there that is made, or a command
that is run to change something. Python tells of each before it happens, and the module's process is
killed there, so that all steps before are done and none after.

`make interruptions` tries every step, other runs every third: FLATNET_EVERY says which.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import typing as t

from tests.integration.modules import MODULES, PYTHON, environment
from tests.lab import Host

_RUNNER = """
import importlib, json, os, runpy, signal, sys
from ansible.module_utils import basic
name, arguments, steps, harmless = json.load(sys.stdin)
importlib.import_module(name)
del sys.modules[name]
done = 0

def at(event, details):
    global done
    if event in ("os.rename", "os.remove", "os.mkdir"):
        target = details[1] if event == "os.rename" else details[0]
        # Relative to an open folder, or by its whole path.
        if str(target).startswith("/") and not str(target).startswith("/etc/"):
            return
    elif event == "subprocess.Popen":
        words = [os.fsdecode(word) for word in details[1]]
        if any(word in harmless or word.split("=")[0] in harmless for word in words):
            return
    else:
        return
    if done == steps:
        os.kill(os.getpid(), signal.SIGKILL)
    done += 1

sys.addaudithook(at)
basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
basic._ANSIBLE_PROFILE = "legacy"
sys.argv = [name]
runpy.run_module(name, run_name="__main__")
"""

#: Words of commands that only look.
_HARMLESS = (
    "-c -j --state --list-all-zones --list-all-policies --get-default-zone --get-all-rules "
    "--get-ipsets --get-entries"
).split()


EVERY = int(os.environ.get("FLATNET_EVERY", "3"))


def points(first: int = 0) -> t.Iterator[int]:
    """The steps to interrupt after, without end."""
    return itertools.count(first, EVERY)


#: The task that makes a backend's device.
DEVICE_TASKS = {"vxlan": "Make the VTEP", "udp": "Make the relay"}


def tasks(backend: str, since: str = "Write the network's config to etcd") -> t.Sequence[str]:
    """The tasks of site.yml to kill a run in, when the first host has done the task. The two
    backends share them, each taking every second one, unless every step is tried."""
    found = [
        "Write the network's config to etcd",
        "Write the files that keep forwarding and modules, and services off our devices",
        "Lease a subnet",
        "Make the container bridge",
        DEVICE_TASKS[backend],
        "Reach every other host",
        "Tell container runtimes the host's subnet",
    ]
    found = found[found.index(since) :]
    return found if EVERY == 1 else found[list(DEVICE_TASKS).index(backend) :: 2]


def run_steps(host: Host, module: str, arguments: t.Mapping[str, t.Any], steps: int) -> bool:
    """Run a module and kill it after so many steps; whether it came to its end before."""
    done = subprocess.run(
        host.command([PYTHON, "-c", _RUNNER]),
        input=json.dumps([MODULES + module, dict(arguments), steps, _HARMLESS]),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        return False
    assert done.returncode == 0, done.stdout + done.stderr
    return True
