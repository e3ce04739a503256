# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs modules in network namespaces, each in a process of its own.

What namespace.py starts with the target's Python. A module is a fork of this process, which has
imported everything that takes long, so that a test can afford hundreds of runs. Requests and
answers are lines of JSON on standard input and output.
"""

from __future__ import annotations

import codecs
import ctypes
import importlib
import json
import os
import sys
import tempfile
import traceback

from ansible.module_utils import basic

PROFILE = "legacy"  # how results are written, from ansible-core 2.19 on
CLONE_NEWNET = 0x40000000
# Those of the kernel: imported here, who runs one as nobody need not be able to read the sources.
MODULES = "bridge vxlan_vtep fdb_entry neigh_entry route_entry segment segment_info".split()
PACKAGE = "ansible_collections.flatnet.overlay.plugins.modules."


def preload():
    codecs.lookup("ascii")
    for name in MODULES:
        importlib.import_module(PACKAGE + name)
    if hasattr(basic, "_json"):  # from ansible-core 2.19 on
        for direction in basic._json.Direction:
            basic._json.get_module_decoder(PROFILE, direction)
            basic._json.get_module_encoder(PROFILE, direction)
    importlib.import_module("pyroute2")
    importlib.import_module("pyroute2.netlink.exceptions")


def become_module(request, out, err):
    """In the child: run the module; never returns."""
    code = 1
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        with open("/run/netns/" + request["namespace"], "rb") as file:
            if ctypes.CDLL(None).setns(file.fileno(), CLONE_NEWNET):
                raise OSError("cannot enter the namespace")
        if request["uid"]:
            os.setgroups([])
            os.setgid(request["uid"])
            os.setuid(request["uid"])
        for name in request["without"]:
            sys.modules[name] = None
        basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": request["args"]}).encode()
        basic._ANSIBLE_PROFILE = PROFILE
        sys.argv = [request["module"]]
        importlib.import_module(PACKAGE + request["module"]).main()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(bool(done.code))
    except BaseException:  # noqa: BLE001 - reported to the test
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(request):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            become_module(request, out, err)
        status = os.waitpid(child, 0)[1]
        out.seek(0)
        err.seek(0)
        return {"code": os.WEXITSTATUS(status), "out": out.read(), "err": err.read()}


def main():
    preload()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
