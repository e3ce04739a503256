# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Target 6: many processes that acquire leases at once, beside the way that comes to mind first."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
import typing as t

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    Compare,
    EtcdClient,
    Op,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.assignment import (
    Wish,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.host import Host
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import Lease
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.acquire import (
    acquire as acquire_lease,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.registry import (
    Registry,
)

from tests.lab import Lab

from . import inside
from .measure import Part, count, median, number, seconds, times

PROCESSES = 32
TRANSACTIONS, FASTER = 1.1, 10.0
_NETWORK = '{"Network":"10.64.0.0/12","SubnetLen":24,"Backend":{"Type":"vxlan"}}'
# All of the network's subnets that may be leased, in order.
_SUBNETS = ["10.%d.%d.0/24" % (64 + number // 256, number % 256) for number in range(1, 4096)]
_FORK = multiprocessing.get_context("fork")

# How many transactions it took to get one subnet, and which.
Got = tuple[int, str]


def measure(name: str, quick: bool) -> Part:
    leases, repetitions = (200, 1) if quick else (1000, 3)
    part = Part("%d acquisitions by %d parallel processes" % (leases, PROCESSES))
    with Lab(name, hosts=1) as lab:
        found = inside.call(
            lab.hosts[0],
            "acquire",
            "compare",
            endpoints=lab.etcd.endpoints,
            leases=leases,
            repetitions=repetitions,
        )
    ours, naive = found["registry"], found["naive"]
    mine, theirs = (median([each["seconds"] for each in way]) for way in (ours, naive))
    part.hold("duplicates", max(each["duplicates"] for each in ours), 0, count)
    mean = median([each["transactions"] / leases for each in ours])
    part.hold("transactions per acquisition", mean, TRANSACTIONS, number)
    part.show(
        "… of list, then the first free",
        number(median([e["transactions"] / leases for e in naive])),
    )
    part.show("all acquired", seconds(mine))
    part.show("… of list, then the first free", seconds(theirs))
    part.reach("throughput to that of list, then the first free", theirs / mine, FASTER, times)
    return part


def compare(endpoints: list[str], leases: int, repetitions: int) -> dict[str, list[t.Any]]:
    """On a host: both ways, each time in a network of its own."""
    found: dict[str, list[t.Any]] = {"registry": [], "naive": []}
    for each in range(repetitions):
        # Once is enough, and a minute or more.
        naive = [("naive", _naive)] if each == 0 else []
        for way, acquire in [("registry", _registry), *naive]:
            prefix = "/%s%d" % (way, each)
            with EtcdClient(endpoints) as client:
                client.put(prefix + "/config", _NETWORK)
            found[way].append(_race(acquire, endpoints, prefix, leases))
    return found


def _race(
    acquire: t.Callable[[EtcdClient, str, Host], Got],
    endpoints: list[str],
    prefix: str,
    leases: int,
) -> dict[str, float]:
    barrier = _FORK.Barrier(PROCESSES + 1)
    results: t.Any = _FORK.SimpleQueue()

    def work(first: int) -> None:
        with EtcdClient(endpoints, timeout=60) as client:
            client.get(prefix + "/config")
            barrier.wait()
            results.put(
                [acquire(client, prefix, _host(n)) for n in range(first, leases, PROCESSES)]
            )

    processes = [_FORK.Process(target=work, args=(first,)) for first in range(PROCESSES)]
    for process in processes:
        process.start()
    barrier.wait()
    start = time.monotonic()
    got = [each for _process in processes for each in results.get()]
    length = time.monotonic() - start
    for process in processes:
        process.join()
    return {
        "seconds": length,
        "transactions": sum(transactions for transactions, _subnet in got),
        "duplicates": leases - len({subnet for _transactions, subnet in got}),
    }


def _host(number_: int) -> Host:
    address = "198.18.%d.%d" % (number_ // 250, 1 + number_ % 250)
    return Host(hashlib.md5(b"%d" % number_).hexdigest(), "host%d" % number_, address)


def _registry(client: EtcdClient, prefix: str, host: Host) -> Got:
    outcome = acquire_lease(Registry(client, prefix), host, Wish())
    return outcome.transactions, outcome.decision.after.subnet


def _naive(client: EtcdClient, prefix: str, host: Host) -> Got:
    """List the leases, take the first subnet that is free, and start over if it was taken."""
    registry = Registry(client, prefix)
    transactions = 0
    while True:
        taken = set(registry.snapshot().taken)
        subnet = next(text for text in _SUBNETS if text not in taken)
        lease = Lease(subnet, host.public_ip, "vxlan", 1, "0a:00:00:00:00:01")
        key = "%s/subnets/%s" % (prefix, lease.key_name)
        transactions += 1
        if client.txn([Compare.create_revision(key, 0)], [Op.put(key, lease.to_json())]).succeeded:
            return transactions, subnet
