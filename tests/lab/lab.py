# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab: built, looked up and taken down."""

from __future__ import annotations

import json
import os
import re
import shutil
import types
import typing as t
from pathlib import Path

from . import inventory, neighbours, ping, state, underlay
from .etcd import Etcd
from .host import Host, Node, Pod
from .signals import hold, undisturbed, unwinding
from .system import (
    LabError,
    ip_batch,
    kill_netns_processes,
    mounts_below,
    netns_exists,
    parallel,
    run,
)

NEIGHBOURS = state.STATE / ".neighbours"

#: What the demo's network is made of; ``Lab.inventory`` takes others.
NETWORK_VARIABLES = {"flatnet_network": "10.5.0.0/16", "flatnet_backend": {"type": "vxlan"}}


class Lab:
    """A fleet of hosts host1 … on an underlay of one or more segments, with etcd.

    As a context manager it builds the lab and takes it down again, also on errors, SIGINT and
    SIGTERM. ``Lab.load(name)`` gives one that exists.
    """

    def __init__(
        self, name: str, hosts: int = 3, segments: int = 1, etcd: int = 1, mtu: int = 1500
    ) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
            raise LabError(
                f"{name!r} cannot name a lab: use up to 31 small letters, digits and dashes, "
                "the first of them a letter"
            )
        _in_range("segments", segments, 1, underlay.MAX_SEGMENTS)
        _in_range("hosts", hosts, 1, underlay.MAX_HOSTS_PER_SEGMENT * segments)
        _in_range("mtu", mtu, 576, 65535)
        if etcd not in (0, 1, 3):
            raise LabError(f"a lab has 0, 1 or 3 etcd members, not {etcd}")
        self.name = name
        self.segments = segments
        self.mtu = mtu
        self.directory = state.STATE / name
        self.etcd = Etcd(name, etcd, self.directory / "etcd")
        self.hosts: list[Host] = []
        for number in range(1, hosts + 1):
            segment = underlay.host_segment(number, hosts, segments)
            address = underlay.host_address(segment, number)
            directory = self.directory / "hosts" / f"host{number}"
            self.hosts.append(Host(name, f"host{number}", segment, address, directory))
        self.pods: list[Pod] = []
        self._claimed = False
        self._kept = False

    # -- life ------------------------------------------------------------------------------------

    def up(self) -> Lab:
        """Build it; whatever goes wrong, nothing stays behind."""
        with unwinding():
            try:
                with undisturbed():
                    self._claim()
                self._build()
            except BaseException:
                if self._claimed:
                    self.down()
                raise
        return self

    def down(self) -> None:
        """Take down everything that belongs to the lab; also what is left of one that failed."""
        with undisturbed():
            namespaces = self._recorded_namespaces()
            self.etcd.abandon()
            kill_netns_processes(namespaces)
            for point in mounts_below(self.directory):
                # Lazily, for whoever is looking around in there.
                run(["umount", "--lazy", point])
            ip_batch(f"netns del {netns}" for netns in namespaces if netns_exists(netns))
            if self.directory.exists():
                shutil.rmtree(self.directory)
            self.pods = []
            self._claimed = False
            with state.locked():
                if not state.names():
                    neighbours.restore(NEIGHBOURS)
                    state.remove()

    def __enter__(self) -> Lab:
        self._signals = unwinding()
        self._signals.__enter__()
        try:
            return self.up()
        except BaseException:
            self._signals.__exit__(None, None, None)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        try:
            if not self._kept:
                self.down()
        finally:
            self._signals.__exit__(None, None, None)

    def keep(self) -> None:
        """Leave the lab up after the block of 'with'.

        Call it last, in a process that then ends: signals that come too late to take the lab down
        are held back, so that the process does not end like one that failed.
        """
        hold()
        self._kept = True

    @staticmethod
    def names() -> list[str]:
        """The labs that exist."""
        return state.names()

    @classmethod
    def load(cls, name: str) -> Lab:
        """A lab that another process built."""
        try:
            known = json.loads((state.STATE / name / "lab.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError) as exc:
            there = ", ".join(cls.names()) or "none"
            raise LabError(f"there is no lab {name!r} (there are: {there})") from exc
        pods = known.pop("pods")
        lab = cls(name, **known)
        lab.pods = [Pod(**pod) for pod in pods]
        return lab

    # -- use -------------------------------------------------------------------------------------

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"lab {self.name!r} has no host {name!r}: they are {_span(self.hosts)}")

    def add_pod(
        self,
        host: Host | str,
        address: str,
        gateway: str | None = None,
        bridge: str = "cni0",
        mtu: int | None = None,
    ) -> Pod:
        """Join a new namespace to a bridge of the host; address is with prefix length.

        Its default route goes by way of gateway, its MTU is the bridge's unless given.
        """
        host = self.host(host) if isinstance(host, str) else host
        links = json.loads(host.exec(["ip", "-j", "link"], check=True).stdout)
        bridges = {link["ifname"]: link for link in links}
        if bridge not in bridges:
            raise LabError(f"{host.name} has no bridge {bridge!r} that a pod could join")
        mtu = mtu or bridges[bridge]["mtu"]
        number = 1
        while any(pod.name == f"{host.name}-pod{number}" for pod in self.pods):
            number += 1
        name = f"{host.name}-pod{number}"
        pod = Pod(host.name, name, f"{self.name}-{name}", address)
        self._make_namespaces([pod.netns])
        self.pods.append(pod)
        self._save()
        port = f"pod{number}"
        ip_batch(
            [
                f"link add eth0 netns {pod.netns} mtu {mtu} type veth "
                f"peer name {port} mtu {mtu} netns {host.netns}"
            ]
        )
        ip_batch([f"link set {port} master {bridge} up"], netns=host.netns)
        lines = ["link set lo up", f"addr add {address} brd + dev eth0", "link set eth0 up"]
        if gateway:
            lines.append(f"route add default via {gateway}")
        ip_batch(lines, netns=pod.netns)
        return pod

    def remove_pod(self, pod: Pod) -> None:
        kill_netns_processes([pod.netns])
        run(["ip", "netns", "del", pod.netns])
        self.pods.remove(pod)
        self._save()

    def reboot(self, host: Host | str) -> None:
        """Take from a host all that a reboot takes: its processes, its pods, its kernel, its /run.

        It comes back on the underlay with its address, and with its /etc.
        """
        host = self.host(host) if isinstance(host, str) else host
        kill_netns_processes([host.netns])
        for pod in [pod for pod in self.pods if pod.host == host.name]:
            self.remove_pod(pod)
        underlay.leave(self.name, host.netns)
        run(["ip", "netns", "del", host.netns])
        host.clear_run()
        run(["ip", "netns", "add", host.netns])
        underlay.join(self.name, self.mtu, [(host.netns, host.segment, host.address)])

    def ping_matrix(
        self,
        nodes: t.Sequence[Node] | None = None,
        size: int | None = None,
        df: bool = False,
        retries: int = 3,
    ) -> ping.Matrix:
        """Ping all pairs of nodes (default: all pods) at once; see lab/ping.py."""
        return ping.ping_matrix(self.pods if nodes is None else nodes, size, df, retries)

    def inventory(
        self,
        variables: t.Mapping[str, t.Any] | None = None,
        python: str | None = None,
        path: Path | None = None,
    ) -> Path:
        """Write the lab's inventory, with more variables of the group if given; return its path.

        python is the hosts' interpreter; without it FLATNET_TARGET_PYTHON of the environment, which
        tells the tests with which one to run (make matrix), or the distribution's.
        """
        python = python or os.environ.get("FLATNET_TARGET_PYTHON", "/usr/bin/python3")
        text = inventory.inventory(
            self.name,
            self.hosts,
            {
                "ansible_python_interpreter": python,
                "flatnet_etcd_endpoints": self.etcd.endpoints,
                **NETWORK_VARIABLES,
                **(variables or {}),
            },
        )
        path = path or self.directory / "inventory.yml"
        path.write_text(text, encoding="utf-8")
        return path

    # -- building --------------------------------------------------------------------------------

    def _claim(self) -> None:
        """Take the name; from here on down() has something to do."""
        with state.locked():
            try:
                self.directory.mkdir()
            except FileExistsError as exc:
                raise LabError(
                    f"the lab {self.name!r} exists already; take it down first: "
                    f"python3 -m tests.lab down {self.name}"
                ) from exc
            self._claimed = True

    def _build(self) -> None:
        self._save()
        with state.locked():
            neighbours.make_room(len(self.hosts), NEIGHBOURS)
        infrastructure = [f"{self.name}-underlay", f"{self.name}-router"]
        nodes = [(host.netns, host.segment, host.address) for host in self.hosts]
        nodes += [
            (self.etcd.netns(member), 1, underlay.etcd_address(member))
            for member in self.etcd.members
        ]
        self._make_namespaces([*infrastructure, *(netns for netns, _segment, _address in nodes)])
        # The router is an ordinary namespace that forwards.
        forward = ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]
        run(["ip", "netns", "exec", f"{self.name}-router", *forward])
        underlay.build(self.name, self.segments, self.mtu, nodes)
        if self.etcd.members:
            self.etcd.directory.mkdir()
            self.etcd.start(wait=False)
        hosts_file = "".join(f"{host.address} {host.name}\n" for host in self.hosts)
        parallel(lambda host: host.make_files(hosts_file), self.hosts)
        if self.etcd.members:
            self.etcd.wait()

    def _make_namespaces(self, namespaces: list[str]) -> None:
        taken = [netns for netns in namespaces if netns_exists(netns)]
        if taken:
            raise LabError(f"network namespaces of these names exist already: {', '.join(taken)}")
        # Recorded before they are made, so that down() knows of each whatever happens in between.
        with (self.directory / "namespaces").open("a", encoding="utf-8") as record:
            record.write("".join(f"{netns}\n" for netns in namespaces))
        ip_batch(f"netns add {netns}" for netns in namespaces)

    def _recorded_namespaces(self) -> list[str]:
        try:
            text = (self.directory / "namespaces").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return list(dict.fromkeys(text.split()))

    def _save(self) -> None:
        known = {
            "hosts": len(self.hosts),
            "segments": self.segments,
            "etcd": len(self.etcd.members),
            "mtu": self.mtu,
            "pods": [vars(pod) for pod in self.pods],
        }
        path = self.directory / "lab.json"
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(known), encoding="utf-8")
        draft.replace(path)


def _in_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise LabError(f"{what} must be from {low} to {high}, not {value}")


def _span(hosts: t.Sequence[Host]) -> str:
    return hosts[0].name if len(hosts) == 1 else f"{hosts[0].name} to {hosts[-1].name}"
