# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Target 2: from nothing to thousands of peers in the kernel; a look that finds all in place."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.watching import (
    WatchingClient,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.devices import (
    DeviceKernel,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.watched import (
    WatchedRegistry,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync import (
    settings as sync_settings,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.agent import Agent

from tests.lab import Lab

from . import fleet, inside, resident
from .measure import Part, median, megabytes, number, seconds, timed, times

# Of flanneld's 2.76 s on the machine that the targets were set on, and of a real one beside us.
START, CONVERGE, NOTHING = 0.92, 0.45, 0.25
SHARE, CONVERGE_SHARE = 1 / 3, 1 / 6
# By how much the time for a peer may grow from 4,000 to 20,000 peers and still count as linear.
LINEAR = 1.25


def measure(name: str, quick: bool) -> Part:
    part = Part("The service among 4,000 peers")
    sizes = [1000, 4000] if quick else [1000, 2000, 4000, 8000, 12000, 16000, 20000]
    flanneld = os.environ.get("FLANNELD")
    with Lab(name, hosts=2) as lab:
        host, other = lab.hosts
        resident.prepare(host, lab)
        filled = 0
        for size in sizes:
            repetitions = 3 if quick else 7 if size == 4000 else 3
            fill(host, lab, filled, size)
            filled = size
            starts, theirs = [], []
            for _each in range(repetitions):
                starts.append(inside.call(host, "service", "start", peers=size))
                if flanneld and size <= 4000:
                    theirs.append(_start_flanneld(other, lab, flanneld, size))
            found = inside.call(host, "service", "converge", repetitions=repetitions)
            row = {
                "process start to all peers": median([each["seconds"] for each in starts]),
                "converge": median([each["first"] for each in found]),
                "converge with nothing to do": median([each["again"] for each in found]),
            }
            if theirs:
                row["flanneld, process start to all peers"] = median([e["seconds"] for e in theirs])
            for label, value in row.items():
                part.series.setdefault(label, []).append((size, value))
            if size == 4000:
                _rows(part, row, starts, theirs)
    if not quick:
        for label in ("process start to all peers", "converge", "converge with nothing to do"):
            _linear(part, label)
    return part


def _rows(part: Part, row: dict[str, float], starts: list[t.Any], theirs: list[t.Any]) -> None:
    start, converge, nothing = list(row.values())[:3]
    part.hold("process start to all in the kernel", start, START, seconds)
    part.show("… CPU", seconds(median([each["cpu"] for each in starts])))
    part.show("… resident memory", megabytes(median([each["resident"] for each in starts])))
    part.hold("converge: list, parse, validate, diff, program", converge, CONVERGE, seconds)
    part.hold("converge with nothing to do", nothing, NOTHING, seconds)
    if theirs:
        flanneld = median([each["seconds"] for each in theirs])
        part.show("flanneld: process start to all in the kernel", seconds(flanneld))
        part.show("… CPU", seconds(median([each["cpu"] for each in theirs])))
        part.hold("ours to flanneld's", start / flanneld, SHARE, times)
        part.hold("our converge to flanneld's start", converge / flanneld, CONVERGE_SHARE, times)


def _linear(part: Part, label: str) -> None:
    """The slope from 4,000 to 20,000 peers, to that from 0 to 4,000."""
    points = dict(part.series[label])
    growth = (points[20000] / 20000) / (points[4000] / 4000)
    part.hold("%s: time per peer among 20,000, to 4,000" % label, growth, LINEAR, number)


def fill(host: t.Any, lab: Lab, first: int, last: int) -> None:
    """Leases of these numbers in etcd; at first also the config, and leases for the hosts."""
    hosts = [] if first else [each.address for each in lab.hosts]
    inside.call(
        host, "service", "put", endpoints=lab.etcd.endpoints, first=first, last=last, hosts=hosts
    )


def put(endpoints: list[str], first: int, last: int, hosts: list[str]) -> None:
    with WatchingClient(endpoints) as client:
        if hosts:
            client.put(fleet.PREFIX + "/config", fleet.CONFIG)
            fleet.put_own(client, hosts)
        fleet.put(client, range(first, last))


def start(peers: int) -> dict[str, float]:
    """On a host: the service, whose devices are not there, as after a boot."""
    resident.forget([fleet.DEVICE, "cni0"])
    with resident.running([resident.COMMAND, "watch"], peers) as found:
        return {"seconds": found.seconds, "cpu": found.cpu, "resident": found.resident}


def _start_flanneld(host: t.Any, lab: Lab, path: str, peers: int) -> t.Any:
    arguments = ["-etcd-endpoints=" + ",".join(lab.etcd.endpoints), "-iface=eth0"]
    arguments += ["-etcd-prefix=" + fleet.PREFIX]
    return inside.call(host, "service", "start_flanneld", argv=[path, *arguments], peers=peers)


def start_flanneld(argv: list[str], peers: int) -> dict[str, float]:
    resident.forget([fleet.DEVICE])
    with resident.running(argv, peers) as found:
        return {"seconds": found.seconds, "cpu": found.cpu, "resident": found.resident}


def converge(repetitions: int) -> list[dict[str, float]]:
    """On a host: a listing brought into the kernel, then once more; imports apart."""
    import pyroute2  # noqa: F401, PLC0415 - makes devices, and is imported when one is made

    settings = sync_settings.load(resident.SETTINGS)
    found = []
    for _each in range(repetitions):
        resident.forget([fleet.DEVICE, "cni0"])
        Path(settings.state_file).unlink(missing_ok=True)
        with DeviceKernel() as kernel, WatchingClient(settings.etcd.endpoints) as client:
            registry = WatchedRegistry(client, settings.etcd.prefix)
            agent = Agent(settings, kernel, registry, lambda _level, _text: None)

            def once(agent: Agent = agent, registry: WatchedRegistry = registry) -> None:
                agent.take_listing(registry.find())

            found.append({"first": timed(once), "again": timed(once)})
    return found
