# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts of a lab made ready for the udp backend without Ansible: bridge, pod, TUN device, and what
carries packets: a relay from the working tree, or the independent peer.

The first host has subnet 10.5.1.0/24, its pod is 10.5.1.9, and so on.
"""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.udp.backend import (
    VECTOR,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install import services
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay import config, control

from tests.lab import Host, Lab, Pod
from tests.lab.system import ip_batch, netns_pids
from tests.lab.waiting import PATIENCE, wait
from tests.relay.sockets import offload

NETWORK = "10.5.0.0/16"
PORT = 8285
DEVICE = "flannel0"
USER = "nobody"
PYTHON = os.environ.get("FLATNET_TARGET_PYTHON", "/usr/bin/python3")

_HERE = Path(__file__).resolve().parent
_CORE = _HERE.parents[1] / "plugins/module_utils/_flatnet"

#: A subnet, an address of the underlay, and the newest format of vectors there.
Peer = config.RelayPeer


def lose_reload(path: Path, socket_path: str) -> None:
    """Have a relay use another table than its file has, and nothing but the content tell: as if
    whoever wrote the table could not tell the relay."""
    good = config.load_table(str(path))
    first, *others = good.peers
    address = first.address[:-1] + ("8" if first.address[-1] == "9" else "9")
    pid = control.ask(socket_path, "summary", 30)["pid"]
    overwrite(path, good._replace(peers=(first._replace(address=address), *others)), pid)
    assert control.ask(socket_path, "reload", 30)["peers"] == len(good.peers)
    overwrite(path, good, pid)


def overwrite(path: Path, table: config.RelayTable, pid: int) -> None:
    """Another table in the same file, which nothing but the content tells: the relay, whose main
    process is ``pid``, looks at its file now and then, and sees no other one."""
    before = path.stat()
    os.kill(pid, signal.SIGSTOP)
    try:
        # Or it looks between the next lines.
        wait(lambda: _state(pid) == "T", "the relay's halt")
        with path.open("r+") as file:
            assert file.write(table.to_json()) == before.st_size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    finally:
        os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    return Path("/proc/%d/stat" % pid).read_text().rpartition(") ")[2][0]


class Running:
    """A program in the foreground of a host."""

    def __init__(
        self, host: Host, argv: t.Sequence[str], env: dict[str, str] | None = None
    ) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by stop()
        self.process = subprocess.Popen(
            host.command(argv),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **(env or {})},
        )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("it does not end: %s" % self.said()) from None


class RelayHost:
    """A host with a pod behind a bridge, and what carries its packets."""

    def __init__(self, fleet: Fleet, host: Host, number: int) -> None:
        self.fleet = fleet
        self.host = host
        self.name = host.name
        self.address = host.address
        self.subnet = "10.5.%d.0/24" % number
        self.gateway = "10.5.%d.1" % number
        self.mtu = fleet.lab.mtu - 28
        self.carrier: Running | None = None
        self.files = host.run / "relay"
        self.files.mkdir(exist_ok=True)
        self.control = str(self.files / "control")
        host.exec(["sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
        ip_batch(
            [
                "link add cni0 mtu %d type bridge mcast_snooping 0" % self.mtu,
                "addr add %s/24 dev cni0" % self.gateway,
                "link set cni0 up",
            ],
            netns=host.netns,
        )
        self.pod: Pod = fleet.lab.add_pod(host, "10.5.%d.9/24" % number, self.gateway)

    def ip(self, *lines: str) -> None:
        ip_batch(lines, netns=self.host.netns)

    def segmented(self) -> None:
        """Nothing that a pod or the underlay gets from here is larger than a packet, and the kernel
        has filled in its checksums."""
        for device in ("pod1", "eth0"):
            offload(self.host, device, tx=False)

    def mac(self) -> bytes:
        """The bridge's, where pods send what is for elsewhere."""
        found = self.host.exec(["cat", "/sys/class/net/cni0/address"], check=True).stdout
        return bytes.fromhex(found.strip().replace(":", ""))

    # --- what carries packets ---------------------------------------------------------------------

    def device(self, *options: str) -> None:
        """A new TUN device with address and route."""
        self.stop()
        if (self.host.exec(["ip", "link", "show", DEVICE])).returncode == 0:
            self.ip("link del " + DEVICE)
        words = " ".join(options)
        self.ip(
            "tuntap add dev %s mode tun %s" % (DEVICE, words),
            "addr add %s/32 dev %s" % (self.subnet.partition("/")[0], DEVICE),
            "link set %s mtu %d up" % (DEVICE, self.mtu),
            "route add %s dev %s" % (NETWORK, DEVICE),
        )

    def start_plain(self, peers: t.Iterable[Peer]) -> None:
        """The independent peer, one packet at a time."""
        self.device()
        words = ["%s=%s" % (peer.subnet, peer.address) for peer in peers]
        argv = [PYTHON, str(_HERE / "flannel_peer.py"), DEVICE, self.address, str(PORT), *words]
        self._begin(argv)
        wait(lambda: "ready" in self.said(), "the plain peer")

    def start_relay(self, peers: t.Iterable[Peer], **settings: t.Any) -> None:
        """The relay of the working tree."""
        self.device("user", USER, "multi_queue", "vnet_hdr")
        self.configure(**settings)
        self.write_table(peers)
        self.run_relay()

    def run_relay(self) -> None:
        self._begin(self.relay_command("run"), self.fleet.environment)
        self.wait_ready()

    def wait_ready(self) -> None:
        wait(self._ready, "the relay")

    def _ready(self) -> bool:
        if self.carrier:
            self.check()
        try:
            return bool(self.ask("status", 1))
        except OSError:
            return False

    def relay_command(self, *words: str) -> list[str]:
        return [
            PYTHON,
            "-m",
            "flatnet.relay.command",
            "--settings",
            "/run/relay/settings.json",
            *words,
        ]

    def configure(self, **settings: t.Any) -> None:
        found = config.RelaySettings(
            device=DEVICE,
            address=self.subnet.partition("/")[0],
            subnet=self.subnet,
            network=NETWORK,
            listen=self.address,
            mtu=self.mtu,
            user=USER,
            table_file="/run/relay/table.json",
            control="/run/relay/control",
        )._replace(**settings)
        (self.files / "settings.json").write_text(found.to_json())

    def write_table(self, peers: t.Iterable[Peer], revision: int = 0) -> None:
        draft = self.files / "table.new"
        draft.write_text(config.RelayTable(tuple(peers), revision).to_json())
        draft.chmod(0o644)
        draft.replace(self.files / "table.json")

    def reload(self, peers: t.Iterable[Peer], revision: int = 0) -> dict[str, t.Any]:
        self.write_table(peers, revision)
        return self.ask("reload")

    def ask(self, command: str, timeout: float = PATIENCE) -> dict[str, t.Any]:
        """The relay's answer to root, whom it keeps no limit for; OSError if there is none."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(control.entrance(self.control))
            connection.sendall(json.dumps({"command": command}).encode() + b"\n")
            answer = connection.makefile().read()
        if not answer:
            raise ConnectionResetError("the relay ended while it answered")
        found: dict[str, t.Any] = json.loads(answer)
        return found

    def drops(self) -> collections.Counter[str]:
        """What was dropped until now, by reason."""
        return collections.Counter(self.ask("status")["drops"])

    def _begin(self, argv: list[str], env: dict[str, str] | None = None) -> None:
        assert self.carrier is None
        self.carrier = Running(self.host, argv, env)

    def said(self) -> str:
        """What is in its journal."""
        return self.carrier.said() if self.carrier else ""

    def supervise(self) -> None:
        """The same relay, kept running as on hosts without systemd."""
        self.stop()
        words = ["env", *("%s=%s" % each for each in self.fleet.environment.items())]
        text = services.definition([*words, *self.relay_command("run")], pause=0.2, sockets=32)
        (self.files / "relay.json").write_text(text)
        script = str(_CORE / "install/supervisor.py")
        self.host.exec([PYTHON, "-I", script, "/run/relay/relay.json"], check=True)
        wait(self._ready, "the supervised relay")

    def unsupervise(self) -> None:
        """Back to one that is started by hand."""
        pid = int((self.files / "relay.pid").read_text().split()[0])
        os.kill(pid, signal.SIGTERM)
        wait(lambda: not Path("/proc/%d" % pid).exists(), "the supervisor's end")
        self.run_relay()

    def revive(self) -> None:
        """A relay that a test has ended or stopped is not the next test's trouble."""
        try:
            self.ask("status", 1)
        except OSError:
            if self.carrier:
                for pid in netns_pids([self.host.netns]):
                    os.kill(pid, signal.SIGKILL)
                self.carrier.process.wait()
            self.carrier = None
            self.run_relay()

    def check(self) -> None:
        """Whatever carries packets has not ended."""
        assert self.carrier
        assert self.carrier.alive, self.said()

    def stop(self) -> None:
        carrier, self.carrier = self.carrier, None
        if carrier and carrier.alive:
            carrier.stop()


class Fleet:
    """Hosts of a lab, each a RelayHost; hosts beyond ``relays`` stay bare."""

    def __init__(self, lab: Lab, relays: int = 2) -> None:
        self.lab = lab
        # Its user, who is nobody, imports from here.
        self._package = Path(tempfile.mkdtemp(prefix="flatnet-relay-"))
        self._package.chmod(0o755)
        (self._package / "flatnet").symlink_to(_CORE)
        self.environment = {"PYTHONPATH": str(self._package), "PYTHONDONTWRITEBYTECODE": "1"}
        self.hosts = [RelayHost(self, host, i + 1) for i, host in enumerate(lab.hosts[:relays])]
        self.bare = lab.hosts[relays:]
        self._others: list[Running] = []

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()
        shutil.rmtree(self._package)

    def stop(self) -> None:
        self.stop_forwarder()
        for each in self.hosts:
            each.stop()

    def peers(self, own: RelayHost, kinds: t.Sequence[str] = (), by_way_of: str = "") -> list[Peer]:
        """Everybody but this host; or all at another address. A relay that may send vectors also
        says that it reads them."""
        both = zip(self.hosts, kinds or [""] * len(self.hosts))
        return [
            Peer(each.subnet, by_way_of or each.address, VECTOR if kind == "vector" else 0)
            for each, kind in both
            if each is not own
        ]

    def carry(self, *kinds: str, by_way_of: str = "", **settings: t.Any) -> None:
        """What each host has: ``plain``, ``relay`` or ``vector``, a relay that may send vectors."""
        assert len(kinds) == len(self.hosts)
        for each, kind in zip(self.hosts, kinds):
            peers = self.peers(each, kinds, by_way_of)
            if kind == "plain":
                each.start_plain(peers)
            else:
                each.start_relay(peers, vector=kind == "vector", **settings)

    def forward(self, **chances: float) -> str:
        """A bad way between the first two hosts; its address."""
        host = self.bare[0]
        argv = [PYTHON, str(_HERE / "forwarder.py"), host.address, str(PORT)]
        argv += [each.address for each in self.hosts[:2]]
        argv += ["%s=%s" % each for each in chances.items()]
        running = Running(host, argv)
        self._others.append(running)
        wait(lambda: "ready" in running.said(), "the forwarder")
        return host.address

    def stop_forwarder(self) -> None:
        while self._others:
            self._others.pop().stop()


def told(status: dict[str, t.Any]) -> str:
    """A status, for messages of tests."""
    return json.dumps(status, indent=1, sort_keys=True)
