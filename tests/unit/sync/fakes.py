# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose kernel, etcd and clock are values, for tests of the agent and its loop. With it come
fake_kernel.py, fake_etcd.py and, for the loop, fake_loop.py.

They stand beside the whole runs in tests/integration/sync, which have a real kernel and a real
etcd. What is real here is all of the core between the two: the registry's transactions, the plan,
and how the kernel's refusals are dealt with. Faked are what the kernel holds, what etcd stores, and
time.
"""

from __future__ import annotations

import contextlib
import json
import os
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.udp.keeper import (
    RelayKeeper,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.vxlan import Vtep
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import Lease
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.snapshot import Found
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.watched import (
    WatchedRegistry,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import (
    applied,
    needs,
    presence,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.location import (
    Choice,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync import (
    config_change,
    own_lease,
    restore,
    retention,
    service,
    state,
    timers,
    upkeep,
    watch_check,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.agent import Agent
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.settings import (
    Etcd,
    Settings,
)

from tests.unit.sync.fake_etcd import ENDPOINT, Clock, WatchedEtcd
from tests.unit.sync.fake_kernel import ADDRESS, FakeKernel

VXLAN = '{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0","Backend":{"Type":"vxlan"}}'
HOST_GW = VXLAN.replace("vxlan", "host-gw")
HOST_ID = "a" * 32


def lease(number: int, **changes: t.Any) -> Lease:
    """A flanneld's, of the subnet 10.5.<number>.0/24."""
    mac = "02:00:00:00:%02x:%02x" % divmod(number, 256)
    found = Lease("10.5.%d.0/24" % number, "172.21.0.%d" % (number + 20), "vxlan", Vtep(1, mac))
    return found._replace(**changes)


# This host's lease, as the playbook has it written.
OWN = lease(200, public_ip=ADDRESS, host_id=HOST_ID, hostname="host0")


def tunnel(peer: Lease) -> tuple[str, str, str]:
    """What the kernel holds for a peer: see FakeKernel.tunnels."""
    return peer.subnet, peer.data.mac if peer.data else "", peer.public_ip


def tunnels(*numbers: int) -> set[tuple[str, str, str]]:
    """The same for leases by their numbers."""
    return {tunnel(lease(number)) for number in numbers}


class World:
    """One host in a network of ``config``; use ``world()`` to make one."""

    def __init__(self, folder: Path, clock: Clock, config: str, **settings: t.Any) -> None:
        self.clock = clock
        self.kernel = FakeKernel()
        self.etcd = WatchedEtcd(clock)
        self.etcd.put_config(config)
        self.registry = WatchedRegistry(self.etcd.client())
        self.listings = 0
        self.registry.find = self._count_listing  # type: ignore[method-assign]
        self.log: list[str] = []
        values: dict[str, t.Any] = {
            "etcd": Etcd(endpoints=(ENDPOINT,)),
            "choice": Choice(host_id=HOST_ID, hostname="host0"),
            "vtep_mac": OWN.data.mac,
            "bridge": "cni0",
            "subnet_file": str(folder / "subnet.env"),
            "state_file": str(folder / "state"),
            "status_file": str(folder / "status.json"),
            **settings,
        }
        self.settings = Settings(**values)
        self.agent = self.start()

    def start(self) -> Agent:
        """Another process: it knows what is on disk, and nothing else."""
        self.agent = Agent(
            self.settings, self.kernel, self.registry, lambda _level, text: self.log.append(text)
        )
        known = state.load(self.settings.state_file)
        if known:
            self.agent.remember(known)
        return self.agent

    def boot(self) -> Agent:
        """The machine starts anew: its kernel holds nothing of ours."""
        self.kernel = FakeKernel()
        return self.start()

    def list(self) -> None:
        """A listing, taken in."""
        self.agent.take_listing(self.registry.find())

    def _count_listing(self) -> Found:
        self.listings += 1
        return WatchedRegistry.find(self.registry)

    def follow(self) -> bool:
        """What has happened in etcd since, taken in as one; False if that asks for a listing."""
        return self.agent.take_events(self.etcd.events_after(self.agent.revision))

    def status(self) -> dict[str, t.Any]:
        return self.agent.status.to_dict()

    def written(self) -> dict[str, t.Any]:
        """The status as others read it; empty before there is one."""
        try:
            found: dict[str, t.Any] = json.loads(Path(self.settings.status_file).read_text())
        except FileNotFoundError:
            return {}
        return found

    def error(self, what: str) -> str:
        """The failure of one kind that lasts; empty if there is none."""
        return next((each["text"] for each in self.status()["errors"] if each["what"] == what), "")

    def logged(self, text: str) -> int:
        return sum(text in line for line in self.log)


@contextlib.contextmanager
def world(
    folder: Path, config: str = VXLAN, own: bool = True, **settings: t.Any
) -> Iterator[World]:
    """A host that has nothing yet, with its lease in etcd if ``own``. ``settings`` are fields of
    Settings."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        for module in (own_lease, restore, retention, service, timers, upkeep, watch_check):
            patch.setattr(module, "time", clock)
        for module in (config_change, upkeep):
            patch.setattr(module, "locked", contextlib.nullcontext)
        patch.setattr(applied.note, "__defaults__", (str(folder / "applied"),))
        patch.setattr(applied.newest, "__defaults__", (str(folder / "applied"),))
        patch.setattr(RelayKeeper.__init__, "__defaults__", (str(folder / "relay.json"),))
        # What this machine has to reach is nothing to the host.
        patch.setattr(needs, "_RESOLVERS", ())
        patch.setattr(needs, "_CLOCKS", ())
        patch.setattr(os, "fsync", lambda _descriptor: None)  # no test pulls the plug
        patch.setattr(presence, "elsewhere", lambda _address: False)
        patch.setattr(retention, "_boot", lambda: "this boot")
        made = World(folder, clock, config, **settings)
        if own:
            made.etcd.put_lease(OWN)
        yield made
