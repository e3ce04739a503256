# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flatnet-sync on the hosts of a lab, run from the working tree; and what kernels hold of peers."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    EtcdClient,
    Op,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    parse_config,
)

from tests.integration.overlay import PREFIX, host_gw_lease, vxlan_lease
from tests.lab import Host, Lab
from tests.lab.waiting import PATIENCE, wait

_POOL = '"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0"'
NETWORK = '{%s,"Backend":{"Type":"vxlan"}}' % _POOL
HOST_GW = '{%s,"Backend":{"Type":"host-gw"}}' % _POOL
SUBNETS = PREFIX + "/subnets/"
VTEP = "flannel.1"

_CORE = Path(__file__).resolve().parents[2] / "plugins/module_utils/_flatnet"
_CLONE_NEWNET = 0x40000000

# All that a host should have again after a boot.
_DUMP = """
ip -d -o link; ip -o addr; ip route show table all; ip -6 route show table all
ip neigh show nud permanent; bridge fdb show
sysctl net.ipv4.ip_forward net.ipv4.conf.flannel/1.forwarding; cat /run/flannel/subnet.env
"""
# Veths of the lab and of pods have other MACs every time. IPv6 within a link is the kernel's.
_NOT_OURS = re.compile(r"\bpod\d|^eth0:? <|\b(fe80|ff00)::|^33:33:|:.* dev eth0\b")


T = t.TypeVar("T")


class Peer(t.NamedTuple):
    """What a kernel needs of a peer: subnet as in a route, address of the underlay, VTEP's MAC."""

    subnet: str
    public_ip: str
    mac: str

    @property
    def name(self) -> str:
        """Of the lease's key."""
        return self.subnet.replace("/", "-")

    @property
    def value(self) -> str:
        return vxlan_lease(self.public_ip, self.mac)


def peer(number: int) -> Peer:
    """A host that runs a flanneld; only its lease exists."""
    high, low = divmod(number, 200)
    return Peer("10.5.%d.0/24" % number, "172.21.%d.%d" % (9 + high, low + 1), mac(number))


def mac(number: int) -> str:
    return "aa:bb:cc:00:%02x:%02x" % divmod(number, 256)


class Reached(t.NamedTuple):
    """What a kernel holds for peers: next hops of routes, MACs of next hops, addresses of MACs."""

    routes: frozenset[tuple[str, str]]
    neighbours: frozenset[tuple[str, str]]
    fdb: frozenset[tuple[str, str]]


def needed(peers: t.Iterable[Peer]) -> Reached:
    """What a kernel should hold so that it reaches exactly these."""
    chosen = list(peers)
    hops = [each.subnet.partition("/")[0] for each in chosen]
    return Reached(
        frozenset((each.subnet, hop) for each, hop in zip(chosen, hops)),
        frozenset((hop, each.mac) for each, hop in zip(chosen, hops)),
        frozenset((each.mac, each.public_ip) for each in chosen),
    )


def reached(host: Host) -> Reached:
    """What the host's kernel holds now."""

    def dump(tool: str, *line: str) -> list[dict[str, t.Any]]:
        argv = [tool, "-n", host.netns, "-j", *line, "dev", VTEP]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        found: list[dict[str, t.Any]] = json.loads(done.stdout or "[]")
        return found

    routes = dump("ip", "-4", "route", "show")
    neighbours = dump("ip", "-4", "neigh", "show", "nud", "permanent")
    return Reached(
        frozenset((each["dst"], each.get("gateway", "")) for each in routes),
        frozenset((each["dst"], each["lladdr"]) for each in neighbours),
        frozenset((each["mac"], each.get("dst", "")) for each in dump("bridge", "fdb", "show")),
    )


class Program:
    """flatnet-sync on one host."""

    def __init__(self, lab: Lab, host: Host, package: Path, **settings: t.Any) -> None:
        self.host = host
        self.netns = host.netns
        self._package = package
        self._process: subprocess.Popen[bytes] | None = None
        self._settings: dict[str, t.Any] = {
            "etcd": {"endpoints": lab.etcd.endpoints, "timeout": 1},
            "bridge": "cni0",
            "state_file": "/etc/flatnet/state",
            "metrics_file": "/run/flatnet/flatnet.prom",
            "sysctls": {"net.ipv4.ip_forward": "1"},
            "restore_wait": 0,
        }
        self.state = host.etc / "flatnet/state"
        self.log = ""
        self.configure(**settings)

    def configure(self, **settings: t.Any) -> None:
        self._settings.update(settings)
        path = self.host.etc / "flatnet"
        path.mkdir(exist_ok=True)
        (path / "sync.json").write_text(json.dumps(self._settings))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One of its commands, to its end."""
        return self.host.exec(self._argv(*arguments), env=self._environment(), timeout=60)

    def start(self, ready: bool = True) -> Program:
        """Start the service; wait until it has told how it is doing."""
        assert self._process is None
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by _end()
        begin = time.time()
        self._process = subprocess.Popen(
            self.host.command(self._argv("watch")), stderr=self._log, env=self._environment()
        )
        if ready:
            wait(lambda: self.told("started", 0) >= begin or not self.running, "the service")
            assert self.running, self.said()
        return self

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        return self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(how)
        code = process.wait(20)
        self._log.seek(0)
        self.log += self._log.read()
        self._log.close()
        return code

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def said(self) -> str:
        """Its log until now."""
        if self._process is None:
            return self.log
        # The file's position is the program's too.
        end = os.fstat(self._log.fileno()).st_size
        return self.log + os.pread(self._log.fileno(), end, 0).decode()

    def _argv(self, *arguments: str) -> list[str]:
        python = os.environ.get("FLATNET_TARGET_PYTHON", "/usr/bin/python3")
        return [python, "-m", "flatnet.sync.command", *arguments]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self._package)}

    # --- what there is --------------------------------------------------------------------------

    def status(self) -> dict[str, t.Any]:
        """As the program has written it; ``flatnet-sync status --json`` has a test of its own."""
        try:
            found = json.loads((self.host.run / "flatnet/status.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return t.cast("dict[str, t.Any]", found)

    def told(self, name: str, default: t.Any = None) -> t.Any:
        return self.status().get(name, default)

    def errors(self) -> str:
        return "; ".join(each["text"] for each in self.told("errors", []))

    def repairs(self, since: float = 0) -> str:
        """The last of them, of those since a time."""
        found = self.told("repairs", [])
        return "; ".join(each["what"] for each in found if each["time"] >= since)

    def saved_revision(self) -> int:
        """etcd's revision that its state on disk is of; 0 without one."""
        try:
            return int(json.loads(self.state.read_bytes().partition(b"\n")[2])["revision"])
        except FileNotFoundError:
            return 0

    def ip(self, line: str) -> str:
        return self.host.exec(["ip", *line.split()], check=True).stdout

    def dump(self) -> list[str]:
        """All of the kernel that is ours or near it, comparable between boots."""
        found = self.host.exec(["sh", "-c", _DUMP]).stdout
        lines = [_timeless(line) for line in found.splitlines()]
        return sorted(line for line in lines if not _NOT_OURS.search(line))

    def becomes(self, dump: list[str]) -> None:
        """Wait until the kernel is as it was."""
        until = time.monotonic() + PATIENCE
        while (found := self.dump()) != dump:
            if time.monotonic() > until:
                differences = sorted(set(found) ^ set(dump))
                raise AssertionError("after %s s: %s\n%s" % (PATIENCE, differences, self.said()))
            time.sleep(0.03)

    @property
    def own(self) -> Peer:
        """This host, as its peers see it."""
        state = self.status()
        lease = json.loads(self.state.read_text().partition("\n")[2])
        value = json.loads(lease["leases"][lease["own"]])
        mac = value.get("BackendData", {}).get("VtepMAC", "")
        return Peer(state["subnet"], value["PublicIP"], mac)


def _timeless(line: str) -> str:
    """Without numbers of devices, and timers of bridges."""
    words = line.split()
    if words and words[0].rstrip(":").isdigit():
        words = words[1:]
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
            continue
        if word == "tentative":
            continue
        if word.endswith("_timer") or word == "link-netnsid":
            skip = True
            continue
        kept.append(word.partition("@")[0] if "@" in word else word)
    return " ".join(kept)


class Programs:
    """A lab whose hosts run the program, and its etcd, written by hand."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.etcd = lab.etcd
        self._package = Path(tempfile.mkdtemp(prefix="flatnet-sync-"))
        (self._package / "flatnet").symlink_to(_CORE)
        self.all: list[Program] = []
        # A thread in a namespace of the lab has a way to its etcd, which this process has not.
        self._inside = ThreadPoolExecutor(1, initializer=enter, initargs=(f"{lab.name}-router",))
        self.client = EtcdClient(lab.etcd.endpoints, timeout=10)

    def close(self) -> None:
        self.end()
        self._inside.submit(self.client.close).result()
        self._inside.shutdown()
        shutil.rmtree(self._package)

    def inside(self, call: t.Callable[..., T], *arguments: t.Any) -> T:
        """Call something, such as a method of ``client``, where etcd can be reached."""
        return self._inside.submit(call, *arguments).result()

    def begin(self, config: str = NETWORK, **settings: t.Any) -> list[Program]:
        """Hosts and etcd as new, and no service started."""
        self.end()
        self.etcd.start()
        self.inside(self.client.delete_prefix, "/")
        for host in self.lab.hosts:
            self.lab.reboot(host)
            shutil.rmtree(host.etc / "flatnet", ignore_errors=True)
            # As the role prepares a host.
            host.exec(["sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
        self.inside(self.client.put, PREFIX + "/config", config)
        self.lease_for_hosts(config)
        self.all = [Program(self.lab, host, self._package, **settings) for host in self.lab.hosts]
        return self.all

    def lease_for_hosts(self, config: str) -> None:
        """Leases for the hosts to adopt: their subnets are from 10.5.200.0 on, so that they have
        those of ``peer()`` to themselves."""
        kind = parse_config(config).backend.type
        for number, host in enumerate(self.lab.hosts):
            value = vxlan_lease(host.address, "aa:bb:ff:00:00:%02x" % number)
            if kind != "vxlan":
                value = host_gw_lease(host.address)
            self.put("10.5.%d.0-24" % (200 + number), value)

    def started(self, config: str = NETWORK, **settings: t.Any) -> list[Program]:
        """The same, and all services run and know each other."""
        for each in self.begin(config, **settings):
            each.start()
        for each in self.all:
            wait(each.state.exists, "the state of " + each.host.name)
        self.settle()
        return self.all

    def end(self) -> None:
        for each in self.all:
            each.kill()

    # --- etcd -----------------------------------------------------------------------------------

    def txn(self, *operations: Op) -> None:
        self.inside(self.client.txn, [], operations)

    def join(self, *peers: Peer) -> None:
        """Leases as flannel writes them, in one transaction."""
        self.txn(*(Op.put(SUBNETS + each.name, each.value) for each in peers))

    def leave(self, *peers: Peer) -> None:
        self.txn(*(Op.delete(SUBNETS + each.name) for each in peers))

    def put(self, name: str, value: str, etcd_lease: int = 0) -> None:
        """Any key below ``subnets``."""
        self.inside(self.client.put, SUBNETS + name, value, etcd_lease)

    def delete(self, name: str) -> None:
        self.inside(self.client.delete, SUBNETS + name)

    def clear(self) -> None:
        """Delete every key below ``subnets`` but the hosts' own."""
        own = {each.own.name for each in self.all}
        for found in self.inside(self.client.range_prefix, SUBNETS).kvs:
            if found.key[len(SUBNETS) :] not in own:
                self.inside(self.client.delete, found.key)

    def leases(self) -> dict[str, dict[str, t.Any]]:
        found = self.inside(self.client.range_prefix, SUBNETS).kvs
        return {each.key[len(SUBNETS) :]: json.loads(each.value) for each in found}

    def peers(self) -> list[Peer]:
        """Every lease in etcd; all of them have to be good ones."""
        return [
            Peer(name.replace("-", "/"), value["PublicIP"], value["BackendData"]["VtepMAC"])
            for name, value in self.leases().items()
        ]

    # --- the fleet ------------------------------------------------------------------------------

    def settle(self, programs: t.Iterable[Program] | None = None) -> None:
        """Wait until every host reaches exactly those in etcd, apart from itself."""
        peers = self.peers()
        for each in self.all if programs is None else programs:
            self.reaches(each, peers)

    def saved(self, program: Program) -> None:
        """Wait until the host's state on disk has all that is in etcd now."""
        revision = self._beat()
        wait(lambda: program.saved_revision() >= revision, "the state of " + program.host.name)

    def told(self, program: Program) -> None:
        """Wait until the host's status tells of all that it has done until now."""
        revision = self._beat()
        wait(lambda: program.told("revision", 0) >= revision, "the status of " + program.host.name)

    def _beat(self) -> int:
        """Write a key that decides nothing, so that there is a revision to wait for."""
        return self.inside(self.client.put, PREFIX + "/flatnet/test", "")

    def reaches(self, program: Program, peers: t.Iterable[Peer]) -> None:
        """Wait until the host reaches exactly these, apart from itself."""
        host = program.host
        wanted = needed(each for each in peers if each.public_ip != host.address)
        until = time.monotonic() + PATIENCE
        while True:
            found = reached(host)
            if found == wanted:
                return
            if time.monotonic() > until:
                assert found == wanted, "%s: %s" % (host.name, program.said()[-3000:])
            time.sleep(0.03)

    def add_pods(self) -> None:
        """A pod on every host that has none."""
        for each in self.all:
            if not any(pod.host == each.host.name for pod in self.lab.pods):
                network = each.own.subnet.rpartition(".")[0]
                self.lab.add_pod(each.host, network + ".9/24", network + ".1")

    def pods_answer(self) -> bool:
        return all(self.lab.ping_matrix().values())


class Pinging:
    """Pods of all hosts ping each other ten times a second; how many answers did not come."""

    def __init__(self, lab: Lab) -> None:
        self._running = [
            subprocess.Popen(
                pod.command(["fping", "-l", "-p", "100", "-q", *self._others(lab, pod.address)]),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for pod in lab.pods
        ]

    @staticmethod
    def _others(lab: Lab, address: str) -> list[str]:
        return [pod.address for pod in lab.pods if pod.address != address]

    def lost(self) -> list[str]:
        """Ends it; lines of fping that tell of a loss."""
        lines: list[str] = []
        for process in self._running:
            process.send_signal(signal.SIGINT)
            lines += process.communicate()[1].splitlines()
        told = [line for line in lines if "%loss" in line]
        assert len(told) == len(self._running) * (len(self._running) - 1)
        self.sent = sum(int(line.split("= ")[1].split("/")[0]) for line in told)
        return [line for line in told if "/0%" not in line]


def enter(netns: str) -> None:
    """Have this thread, and those that it starts, in a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/run/netns/" + netns) as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
