# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Target 4: a service among 4,000 peers that follows etcd."""

from __future__ import annotations

import socket
import threading
import time
import typing as t

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import EtcdClient
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.kernel import Kernel

from tests.lab import Lab

from . import fleet, resident, service
from .inside import call
from .measure import Part, count, cpu_seconds, median, megabytes, milliseconds, percent, percentile
from .measure import resident as resident_bytes

PEERS = 4000
MEDIAN, LAST, TOGETHER = 0.003, 0.010, 0.3
MEMORY, IDLE = 60e6, 0.003
# The default of the role's settings, in seconds.
CHECK_INTERVAL = 60.0
# Leases that a prefix of keys takes in: those of 10.150.0.0/16.
BURST = range((150 - 1) * 256, (150 - 1) * 256 + 100)
_BURST_KEYS = fleet.PREFIX + "/subnets/10.150."
_WRITERS = 4
_CALM = 0.05


def measure(name: str, quick: bool) -> Part:
    part = Part("`flatnet-sync watch` among 4,000 peers")
    with Lab(name, hosts=1) as lab:
        host = lab.hosts[0]
        # Nothing but what the measurement does.
        resident.prepare(host, lab, check_interval=3600.0)
        service.fill(host, lab, 0, PEERS)
        endpoints = lab.etcd.endpoints
        found = call(
            host,
            "watch",
            "follow",
            endpoints=endpoints,
            joins=50 if quick else 500,
            bursts=5 if quick else 100,
            idle=5.0 if quick else 30.0,
        )
        interval = 2.0
        resident.prepare(host, lab, check_interval=interval)
        checked = call(host, "watch", "rest", idle=10.0 if quick else 60.0)
    joins = found["joins"]
    part.hold("etcd put to route, median", median(joins), MEDIAN, milliseconds)
    part.hold("etcd put to route, 99th percentile", percentile(joins, 0.99), LAST, milliseconds)
    part.show(
        "… of it, until etcd acknowledges the put, median", milliseconds(median(found["acks"]))
    )
    for kind, label in (
        ("burst", "100 joins in one burst, the slowest"),
        ("transactions", "100 joins in transactions of 20, the slowest"),
        ("delete", "a range delete of 100, the slowest"),
    ):
        part.show(label.replace("slowest", "median"), milliseconds(median(found[kind])))
        part.hold(label, max(found[kind]), TOGETHER, milliseconds)
    part.hold(
        "peers lost or left over in %d repetitions" % len(found["burst"]), found["lost"], 0, count
    )
    part.hold("resident memory", found["resident"], MEMORY, megabytes)
    per_check = (checked["cpu"] - found["idle"]) * interval
    part.hold("CPU when idle", found["idle"] + per_check / CHECK_INTERVAL, IDLE, percent)
    part.show("… of it, comparing everything every %d s" % CHECK_INTERVAL, percent(per_check / 60))
    return part


def follow(endpoints: list[str], joins: int, bursts: int, idle: float) -> dict[str, t.Any]:
    """On a host: everything but the look at a service that checks often."""
    resident.forget([fleet.DEVICE, "cni0"])
    found: dict[str, t.Any] = {
        "joins": [],
        "acks": [],
        "burst": [],
        "transactions": [],
        "delete": [],
    }
    lost = 0
    with (
        resident.running([resident.COMMAND, "watch"], PEERS) as service_,
        _clients(endpoints) as clients,
    ):
        time.sleep(2)
        process, observer = service_.process, service_.observer
        found["resident"] = service_.resident
        found["idle"] = _cpu(process.pid, idle)
        client = clients[0]
        for number in range(PEERS, PEERS + joins):
            start = time.monotonic()
            fleet.put(client, [number])
            found["acks"].append(time.monotonic() - start)
            end = observer.until(_holds({_packed(number)}))
            if end is None:
                lost += 1
                continue
            found["joins"].append(end - start)
            time.sleep(_CALM / 5)
        wanted = {_packed(number) for number in BURST}
        for _each in range(bursts):
            for kind, write in (("burst", _burst), ("transactions", _transactions)):
                for label, act, done in (
                    (kind, write, _holds(wanted)),
                    ("delete", _delete, _lacks(wanted)),
                ):
                    start = time.monotonic()
                    act(clients)
                    end = observer.until(done, 5.0)
                    if end is None:
                        lost += 1
                    else:
                        found[label].append(end - start)
                    time.sleep(_CALM)
        lost += _wrong(PEERS + joins)
        found["resident"] = max(found["resident"], resident_bytes(process.pid))
    return {**found, "lost": lost}


def rest(idle: float) -> dict[str, float]:
    """On a host: the CPU of a service that nothing happens to, as a part of one core."""
    with resident.running([resident.COMMAND, "watch"], 0) as service_:
        time.sleep(3)
        return {"cpu": _cpu(service_.process.pid, idle)}


def _cpu(pid: int, length: float) -> float:
    before, start = cpu_seconds(pid), time.monotonic()
    time.sleep(length)
    return (cpu_seconds(pid) - before) / (time.monotonic() - start)


class _clients:  # noqa: N801 - reads as the function that it could be
    """As many clients as write at once, each with its connection made."""

    def __init__(self, endpoints: list[str]) -> None:
        self._clients = [EtcdClient(endpoints) for _each in range(_WRITERS)]

    def __enter__(self) -> list[EtcdClient]:
        for client in self._clients:
            client.get(fleet.PREFIX + "/config")
        return self._clients

    def __exit__(self, *failure: object) -> None:
        for client in self._clients:
            client.close()


def _burst(clients: list[EtcdClient]) -> None:
    """One put after the other, from several writers at once."""

    def write(place: int) -> None:
        fleet.put(clients[place], BURST[place::_WRITERS], 1)

    threads = [threading.Thread(target=write, args=(place,)) for place in range(_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _transactions(clients: list[EtcdClient]) -> None:
    fleet.put(clients[0], BURST, 20)


def _delete(clients: list[EtcdClient]) -> None:
    clients[0].delete_prefix(_BURST_KEYS)


def _packed(number: int) -> bytes:
    return socket.inet_aton(fleet.subnet(number).partition("/")[0])


def _holds(wanted: set[bytes]) -> t.Callable[[set[bytes]], bool]:
    return lambda there: wanted <= there


def _lacks(wanted: set[bytes]) -> t.Callable[[set[bytes]], bool]:
    return lambda there: not wanted & there


def _wrong(peers: int) -> int:
    """How many entries the kernel lacks, or has too many, of those for so many peers."""
    wanted = set(fleet.entries(peers))
    with Kernel() as kernel:
        there = {*kernel.neighbours(fleet.DEVICE), *kernel.fdb(fleet.DEVICE)}
        there |= {r for r in kernel.routes() if r.dev == fleet.DEVICE and ":" not in r.dst}
    return len(wanted ^ there)
