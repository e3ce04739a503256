# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random events against a model: what the kernels hold is always what the model says.

``FLATNET_EVENTS=10000`` (make soak) takes more of them, ``FLATNET_SEED`` others.
"""

from __future__ import annotations

import os
import random
import time
import typing as t

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import Op

from tests.integration.overlay import vxlan_lease
from tests.integration.programs import SUBNETS, Peer, Programs, needed, reached
from tests.lab.waiting import PATIENCE

EVENTS = int(os.environ.get("FLATNET_EVENTS", "1200"))
SEED = int(os.environ.get("FLATNET_SEED", "0")) or random.randrange(1 << 30)
CHECK_EVERY = 200
NUMBERS = range(1, 120)
TTL = 2


class Value(t.NamedTuple):
    """What a lease says, as far as it matters."""

    public_ip: str
    mac: str
    vni: int = 1

    def to_json(self) -> str:
        return vxlan_lease(self.public_ip, self.mac, self.vni)


class Model:
    """The last good lease of every key that is there, in the order in which keys were made."""

    def __init__(self, hosts: t.Sequence[Peer]) -> None:
        self.hosts = hosts
        self.leases = {host.name: Value(host.public_ip, host.mac) for host in hosts}

    def seen_from(self, own: Peer) -> list[Peer]:
        """What this host should reach."""
        found: list[Peer] = []
        for name, value in self.leases.items():
            subnet = name.replace("-", "/")
            good = subnet.startswith("10.5.") and subnet.endswith("/24") and value.vni == 1
            foreign = name != own.name and own.public_ip != value.public_ip
            clash = any(
                each.mac == value.mac and each.public_ip != value.public_ip for each in found
            )
            if good and foreign and value.mac != own.mac and not clash:
                found.append(Peer(subnet, value.public_ip, value.mac))
        return found


class Events:
    """Draws events, and does each to etcd and to the model."""

    def __init__(self, programs: Programs, model: Model, seed: int) -> None:
        self.programs = programs
        self.model = model
        self.chance = random.Random(seed)
        self.counts: dict[str, int] = {}
        # Keys whose etcd lease will run out.
        self.expiring: set[str] = set()
        # Keys that were written since every host was known to have read everything.
        self.fresh: set[str] = set()
        self._kinds = {
            self.join: 30,
            self.leave: 22,
            self.mac_change: 10,
            self.ip_change: 8,
            self.move: 8,
            self.burst: 2,
            self.garbage_value: 6,
            self.garbage_key: 3,
            self.bad_lease: 4,
            self.expiry: 4,
            self.drift: 1,
            self.compaction: 0.5,
            self.restart_etcd: 0.15,
            self.kill_etcd: 0.15,
            self.cut_connections: 0.4,
            self.restart_service: 0.25,
        }

    def one(self) -> None:
        kind = self.chance.choices([*self._kinds], [*self._kinds.values()])[0]
        self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1
        kind()

    # --- leases ---------------------------------------------------------------------------------

    def _name(self) -> str:
        return "10.5.%d.0-24" % self.chance.choice(NUMBERS)

    def _known(self, without: t.Collection[str] = ()) -> str | None:
        own = {each.name for each in self.model.hosts}
        names = sorted(set(self.model.leases) - own - self.expiring - set(without))
        return self.chance.choice(names) if names else None

    def _value(self) -> Value:
        # Few enough that two hosts have one MAC, or one host has two subnets, now and then.
        number = self.chance.randrange(400)
        return Value(
            "172.21.7.%d" % (1 + number % 250), "aa:bb:cc:00:%02x:%02x" % divmod(number, 256)
        )

    def _put(self, name: str, value: Value, etcd_lease: int = 0) -> None:
        self.programs.put(name, value.to_json(), etcd_lease)
        self._now(name, value)

    def _now(self, name: str, value: Value | None) -> None:
        """What a key holds from now on, for the model; None: it is gone."""
        self.fresh.add(name)
        if value:
            self.model.leases[name] = value
        else:
            self.model.leases.pop(name, None)

    def join(self) -> None:
        name = self._name()
        if name not in self.expiring:
            self._put(name, self._value())

    def leave(self) -> None:
        name = self._known()
        if name:
            self.programs.delete(name)
            self._now(name, None)

    def mac_change(self) -> None:
        name = self._known()
        if name:
            self._put(name, self.model.leases[name]._replace(mac=self._value().mac))

    def ip_change(self) -> None:
        name = self._known()
        if name:
            self._put(name, self.model.leases[name]._replace(public_ip=self._value().public_ip))

    def move(self) -> None:
        """A host's lease goes from one subnet to another, in one transaction or in two."""
        old, new = self._known(), self._name()
        if not old or old == new or new in self.expiring:
            return
        value = self.model.leases[old]
        put = Op.put(SUBNETS + new, value.to_json())
        if self.chance.random() < 0.5:
            self.programs.txn(put, Op.delete(SUBNETS + old))
        else:
            self.programs.txn(put)
            self.programs.delete(old)
        self._now(old, None)
        self._now(new, value)

    def burst(self) -> None:
        """Many keys in one transaction."""
        names = {self._name() for _each in range(20)} - self.expiring
        operations = []
        for name in sorted(names):
            if name in self.model.leases and self.chance.random() < 0.5:
                operations.append(Op.delete(SUBNETS + name))
                self._now(name, None)
            else:
                value = self._value()
                operations.append(Op.put(SUBNETS + name, value.to_json()))
                self._now(name, value)
        self.programs.txn(*operations)

    def garbage_value(self) -> None:
        """Under the key of a good lease, which is believed on by who has read it.

        Who was away meanwhile has not.
        """
        name = self._known(without=self.fresh)
        if name:
            value = self.model.leases[name].to_json()
            broken = [value[:-5], "", "garbage", "null", value.replace("172.", "372.")]
            self.programs.put(name, self.chance.choice(broken))

    def garbage_key(self) -> None:
        name = self.chance.choice(
            ["x", "10.5.7.0", "10.5.7.1-24", "10.5.7.0-33", "ä", "10.5.7.0-24/1"]
        )
        if self.chance.random() < 0.5:
            self.programs.put(name, self._value().to_json())
        else:
            self.programs.delete(name)

    def bad_lease(self) -> None:
        """Valid, and of no use here: another VNI, a host's own address or MAC, another network, or
        a part of somebody's subnet."""
        value, own = self._value(), self.chance.choice(self.model.hosts)
        bad = [
            value._replace(vni=2),
            value._replace(public_ip=own.public_ip),
            value._replace(mac=own.mac),
        ]
        name = self._name()
        if self.chance.random() < 0.2:
            name = name.replace("10.5.", "10.7.")
        if name not in self.expiring:
            self._put(name, self.chance.choice(bad))
        if self.chance.random() < 0.3:
            name = self._name().replace(".0-24", self.chance.choice([".128-25", ".7-32", ".0-26"]))
            self._put(name, value)

    def expiry(self) -> None:
        """A lease that its host does not renew."""
        name = self._name()
        if name not in self.expiring:
            client = self.programs.client
            etcd_lease = self.programs.inside(client.lease_grant, TTL).id
            self._put(name, self._value(), etcd_lease)
            self.expiring.add(name)

    def expire(self) -> None:
        """Wait until those are gone."""
        until = time.monotonic() + PATIENCE
        there = set(self.expiring)
        while there:
            found = self.programs.inside(self.programs.client.range_prefix, SUBNETS).kvs
            there = self.expiring & {each.key[len(SUBNETS) :] for each in found}
            assert time.monotonic() < until, "etcd does not let %s expire" % there
        for name in self.expiring:
            self._now(name, None)
        self.expiring.clear()

    # --- what happens to etcd, to services and to kernels ---------------------------------------

    def _program(self) -> t.Any:
        return self.chance.choice(self.programs.all)

    def drift(self) -> None:
        line = self.chance.choice(
            [
                "route flush proto 110",
                "neigh flush dev flannel.1 nud permanent",
                "link del flannel.1",
            ]
        )
        self._program().host.exec(["ip", *line.split()])

    def compaction(self) -> None:
        revision = self.programs.inside(self.programs.client.get, "x").revision
        self.programs.etcd.ctl("compact", str(revision), check=False)

    def restart_etcd(self) -> None:
        self.programs.etcd.stop()
        self.programs.etcd.start()

    def kill_etcd(self) -> None:
        self.programs.etcd.kill()
        self.programs.etcd.start()

    def cut_connections(self) -> None:
        """A watch breaks, and nobody knows when it did."""
        self._program().host.exec(["ss", "-K", "dport", "=", ":2379"], check=True)

    def restart_service(self) -> None:
        """In peace: what it does not know of garbage keys when it starts, it has from its state."""
        self.check()
        program = self._program()
        self.programs.saved(program)
        if self.chance.random() < 0.5:
            program.kill()
        else:
            program.stop()
        program.start(ready=self.chance.random() < 0.5)

    # --- the point ------------------------------------------------------------------------------

    def check(self) -> None:
        self.expire()
        for program, own in zip(self.programs.all, self.model.hosts):
            wanted = needed(self.model.seen_from(own))
            until = time.monotonic() + PATIENCE
            while (found := reached(program.host)) != wanted:
                if time.monotonic() > until:
                    differ = [sorted(each ^ other) for each, other in zip(found, wanted)]
                    raise AssertionError(
                        "%s differs: %s\n%s" % (own, differ, program.said()[-5000:])
                    )
                time.sleep(0.05)
        self.fresh.clear()


def test_kernels_always_follow_the_model(programs: Programs) -> None:
    # Where a compaction leaves nothing to tell whether a lease was deleted, it stays for so long.
    programs.started(retention=2, check_interval=2)
    events = Events(programs, Model([each.own for each in programs.all]), SEED)
    print("seed %d" % SEED)
    begin = time.monotonic()
    for number in range(1, EVENTS + 1):
        events.one()
        if number % CHECK_EVERY == 0:
            events.check()
    events.check()
    seconds = time.monotonic() - begin
    print("%d events in %.0f s: %s" % (EVENTS, seconds, sorted(events.counts.items())))
    # In the end by itself, not by starting anew.
    assert all(program.running for program in programs.all)
    assert not any("Traceback" in program.said() for program in programs.all)
