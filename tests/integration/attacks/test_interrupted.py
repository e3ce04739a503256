# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad luck: a run that installs or removes a program is killed after its first step, its second
step, and so on. The next run completes what it had begun, and a removal leaves nothing."""

from __future__ import annotations

import json
import signal
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.integration.install.test_relay import Relay
from tests.integration.install.test_sync import NETWORK, Installed, alive
from tests.integration.interrupted import points
from tests.integration.modules import MODULES, PYTHON, environment, run_modules
from tests.lab import Host, Lab

# Runs a module as Ansible does, and kills it once so many of its steps are done: whatever writes or
# removes a file, starts or ends a process, runs a command, or changes the kernel.
_STEPPER = """
import importlib, json, os, runpy, shutil, signal, sys
from ansible.module_utils import basic
name, arguments, left = json.load(sys.stdin)
importlib.import_module(name)
del sys.modules[name]
core = "ansible_collections.flatnet.overlay.plugins.module_utils._flatnet."

def stepping(owner, *names):
    for name in names:
        setattr(owner, name, step(getattr(owner, name)))

def step(original):
    def counted(*arguments, **more):
        global left
        result = original(*arguments, **more)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return counted

files, package, services, kernel = (
    importlib.import_module(core + each)
    for each in ("host.files", "install.package", "install.services", "kernel.kernel")
)
stepping(files, "replace", "remove", "make_folder")
stepping(package, "_compile", "_write_manifest", "_bring_to_disk")
stepping(services, "run")
stepping(services.Supervised, "_stop")
stepping(kernel.Kernel, "apply")
stepping(os, "symlink", "replace", "rmdir")
basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
basic._ANSIBLE_PROFILE = "legacy"
sys.argv = [name]
runpy.run_module(name, run_name="__main__")
"""
_MOST_STEPS = 200
LOOK = Path(__file__).resolve().parents[3] / "roles/look/vars/main.yml"


def interrupted(host: Host, name: str, left: int, arguments: t.Mapping[str, t.Any]) -> bool:
    """Run a module until it has done so many steps; whether there were as many."""
    done = host.exec(
        [PYTHON, "-c", _STEPPER],
        stdin=json.dumps([MODULES + name, arguments, left]),
        env=environment(),
        timeout=300,
    )
    if done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return True
    assert done.returncode == 0, done.stdout + done.stderr
    return False


def completed(host: Host, name: str, arguments: t.Mapping[str, t.Any]) -> None:
    """Run it twice: the second time nothing changes."""
    first, second = run_modules(host, name, [arguments, arguments])
    assert not first["failed"], first["msg"]
    assert not second["failed"], second["msg"]
    assert second["diff"] == []
    assert not second["changed"]


@pytest.fixture(scope="module")
def lab(lab_factory: t.Callable[..., Lab]) -> Lab:
    built = lab_factory(hosts=2)
    built.etcd.put("/coreos.com/network/config", NETWORK)
    return built


def test_flatnet_sync_is_interrupted_after_each_step(lab: Lab) -> None:
    installed = Installed(lab, lab.hosts[0])
    host, name, put = installed.host, "flatnet_sync", installed.arguments
    gone = {**put, "state": "absent"}
    steps = 0
    for number in points(1):
        more = interrupted(host, name, number, put)
        completed(host, name, put)
        pids = [installed.supervisor, installed.program()]
        assert installed.status()["connected"]
        more = interrupted(host, name, number, gone) or more
        completed(host, name, gone)
        assert not any(map(alive, pids)), f"step {number}"
        assert not (host.etc / "flatnet").exists(), f"step {number}"
        left = {path.name for path in (host.run / "flatnet").iterdir()}
        assert left == {"lock", "installing", "applied"}, f"step {number}"
        steps = number
        if not more:
            break
        assert number < _MOST_STEPS
    assert steps > 10


def test_tun_relay_is_interrupted_after_each_step(lab: Lab) -> None:
    relay = Relay(lab, 2)
    host, name = relay.host, "tun_relay"
    put = {**relay.arguments, "metrics_file": "/run/flatnet-metrics/relay.prom"}
    gone = {**relay.arguments, "state": "absent"}
    before = relay.kernel()
    steps = 0
    for number in points(1):
        more = interrupted(host, name, number, put)
        completed(host, name, put)
        pids = [relay.supervisor, relay.program()]
        more = interrupted(host, name, number, gone) or more
        completed(host, name, gone)
        assert not any(map(alive, pids)), f"step {number}"
        assert relay.kernel() == before, f"step {number}"
        assert not (host.etc / "flatnet").exists(), f"step {number}"
        left = {path.name for path in (host.run / "flatnet").iterdir()}
        assert left == {"lock", "installing"}, f"step {number}"
        metrics = host.run / "flatnet-metrics"
        assert not metrics.exists() or not list(metrics.iterdir()), f"step {number}"
        steps = number
        if not more:
            break
        assert number < _MOST_STEPS
    assert steps > 10


def test_a_host_loses_its_power_while_its_relay_is_removed(lab: Lab) -> None:
    """After each step. The next run of site.yml, with another backend, looks at a few files only to
    see whether there is something left, and does not know what an earlier one named."""
    relay = Relay(lab, 2)
    host, name = relay.host, "tun_relay"
    put = {**relay.arguments, "user": "carrier"}
    gone = {"prefix": put["prefix"], "table_file": put["table_file"], "state": "absent"}
    looked_at = yaml.safe_load(LOOK.read_text())["flatnet_prepare_relay"]
    steps = 0
    for number in points(1):
        completed(host, name, put)
        more = interrupted(host, name, number, gone)
        lab.reboot(host)
        if any(host.exec(["test", "-e", path]).returncode == 0 for path in looked_at):
            completed(host, name, gone)
        left = [path for path in (host.etc / "flatnet").rglob("*") if not path.is_dir()]
        assert left == [], f"step {number}"
        assert host.exec(["id", "carrier"]).returncode != 0, f"step {number}"
        steps = number
        if not more:
            break
        assert number < _MOST_STEPS
    assert steps > 5
