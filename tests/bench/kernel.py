# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Target 1: programming the kernel, beside iproute2's batches for the same entries."""

from __future__ import annotations

import subprocess
import typing as t

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Entry,
    Fdb,
    Neigh,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.kernel import Kernel
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import plan

from tests.lab import Lab

from . import fleet, inside
from .measure import Part, median, seconds, timed, times

LIMIT = 2.0


def measure(name: str, quick: bool) -> Part:
    part = Part("Programming 4,000 new peers (12,000 entries)")
    sizes = [1000, 4000] if quick else [1000, 2000, 4000, 8000, 12000, 16000, 20000]
    with Lab(name, hosts=1, etcd=0) as lab:
        for size in sizes:
            repetitions = 3 if quick else 11 if size == 4000 else 3
            found = inside.call(
                lab.hosts[0], "kernel", "program", count=size, repetitions=repetitions
            )
            core, batches = median(found["core"]), median(found["iproute2"])
            part.series.setdefault("programming by the core", []).append((size, core))
            part.series.setdefault("`ip -batch` and `bridge -batch`", []).append((size, batches))
            if size == 4000:
                part.show("`ip -batch` and `bridge -batch`", seconds(batches))
                part.show("the core, `Kernel.apply`", seconds(core))
                part.hold("ratio", core / batches, LIMIT, times)
        part.hold(f"ratio with {sizes[-1]:,} peers", core / batches, LIMIT, times)
    return part


def program(count: int, repetitions: int) -> dict[str, list[float]]:
    """On a host: both ways in turn, each from an empty device."""
    wanted = fleet.entries(count)
    changes = plan(wanted, ())
    ip = _batch(["ip", "-batch", "-"], (e for e in wanted if not isinstance(e, Fdb)))
    bridge = _batch(["bridge", "-batch", "-"], (e for e in wanted if isinstance(e, Fdb)))
    found: dict[str, list[float]] = {"core": [], "iproute2": []}

    def batches() -> None:
        ip()
        bridge()

    for _each in range(repetitions):
        with Kernel() as kernel:
            _new_device()
            found["core"].append(timed(lambda: kernel.apply(changes)))
            _complete(kernel, count)
            _new_device()
            found["iproute2"].append(timed(batches))
            _complete(kernel, count)
    return found


def _batch(argv: list[str], entries: t.Iterable[Entry]) -> t.Callable[[], None]:
    """A run of iproute2 that makes the entries, in the order that is given."""
    lines = []
    for entry in entries:
        if isinstance(entry, Neigh):
            lines.append(
                "neigh replace %s lladdr %s dev %s nud permanent" % (entry[1], *entry[2::-2])
            )
        elif isinstance(entry, Fdb):
            lines.append(
                "fdb replace %s dev %s dst %s self permanent" % (entry[1], entry[0], entry[2])
            )
        else:
            lines.append(
                "route add %s via %s dev %s onlink" % (entry.dst, entry.gateway, entry.dev)
            )
    text = "\n".join(lines) + "\n"
    return lambda: _run(argv, text)


def _run(argv: list[str], text: str = "") -> None:
    subprocess.run(argv, input=text, text=True, check=True, stdout=subprocess.DEVNULL)


def _new_device() -> None:
    subprocess.run(["ip", "link", "del", fleet.DEVICE], check=False, stderr=subprocess.DEVNULL)
    vxlan = "type vxlan id 1 dev eth0 dstport 8472 nolearning".split()
    _run(["ip", "link", "add", fleet.DEVICE, *vxlan])
    _run(["ip", "link", "set", fleet.DEVICE, "up"])


def _complete(kernel: Kernel, count: int) -> None:
    """A measurement of something that was not done is none."""
    device = fleet.DEVICE
    routes = [route for route in kernel.routes() if route.dev == device and ":" not in route.dst]
    made = len(kernel.neighbours(device)), len(kernel.fdb(device)), len(routes)
    if made != (count, count, count):
        raise RuntimeError("of %d peers the kernel has %s" % (count, made))
