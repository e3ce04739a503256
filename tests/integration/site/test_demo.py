# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What make demo runs: it shows that pods answer, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.waiting import PATIENCE, wait

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def demo() -> t.Iterator[t.Callable[..., subprocess.Popen[str]]]:
    """Start the demo, as from a terminal; whatever the test does, its lab is gone afterwards."""
    if "demo" in Lab.names():
        pytest.skip("the demo's lab is up: python3 -m tests.lab down demo")
    started: list[subprocess.Popen[str]] = []

    def start(**env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.demo"],
            cwd=REPOSITORY,
            env={**os.environ, "BACKEND": "", "KEEP": "", **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.terminate()
            process.wait(60)
        Lab("demo").down()


def traces() -> dict[str, list[str]]:
    """What of the demo there is on this machine."""
    namespaces = Path("/run/netns").glob("demo-*")
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended
            continue
        if "inventories/demo" in words or "demo-host" in words or "demo-etcd" in words:
            processes.append(words)
    return {
        "labs": [name for name in Lab.names() if name == "demo"],
        "namespaces": [path.name for path in namespaces],
        "processes": processes,
    }


NOTHING: dict[str, list[str]] = {"labs": [], "namespaces": [], "processes": []}


def test_it_shows_the_overlay_and_leaves_nothing(
    demo: t.Callable[..., subprocess.Popen[str]],
) -> None:
    process = demo(BACKEND="host-gw")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    rows = [line.split() for line in output.splitlines()]
    assert ["host1-pod1", "-", "ok", "ok"] in rows
    assert '"BackendType":"host-gw"' in output
    assert "via 172.21.0.12 dev eth0 proto flatnet" in output
    assert "FLANNEL_MTU=1500" in output
    assert traces() == NOTHING


def test_of_a_backend_that_carries_nothing_it_shows_the_subnets(
    demo: t.Callable[..., subprocess.Popen[str]],
) -> None:
    process = demo(BACKEND="alloc")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "There is no data plane to ping: the alloc backend carries no packets." in output
    lines = output.splitlines()
    for name in ("host1", "host2", "host3"):
        assert [line for line in lines if line.startswith(name + "  10.5.")]
    assert "flatnet" not in output.partition("host1# ip route")[2].partition("\nhost1# ")[0]
    assert traces() == NOTHING


def test_a_lab_that_is_up_is_not_touched(demo: t.Callable[..., subprocess.Popen[str]]) -> None:
    Lab("demo", hosts=1, etcd=0).up()
    process = demo()
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "take it down first: python3 -m tests.lab down demo" in output
    assert len(Lab.load("demo").hosts) == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(
    demo: t.Callable[..., subprocess.Popen[str]], how: signal.Signals
) -> None:
    process = demo(KEEP="1")
    assert process.stdout
    for line in process.stdout:
        if "Lease a subnet" in line:
            break
    # As a terminal does it: to all in the foreground.
    os.killpg(process.pid, how)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + how, output
    # Ansible's workers notice that theirs is gone.
    wait(lambda: traces() == NOTHING, "the end of all that it started")
