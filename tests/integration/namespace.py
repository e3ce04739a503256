# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One network namespace with a kernel to change, and modules that run in it.

Smaller than a lab: no hosts, no etcd, only a pair of devices for an underlay that leads nowhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import itertools
import json
import os
import re
import subprocess
import tempfile
import time
import typing as t
from pathlib import Path

import ansible

from tests.integration.results import faults
from tests.lab.waiting import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET_PYTHON = os.environ.get("FLATNET_TARGET_PYTHON", "/usr/bin/python3")
HOST_ID = "0123456789abcdef0123456789abcdef"

_CLONE_NEWNET = 0x40000000
_NUMBERS = itertools.count(1)
_STATE = """
ip -details -json link
ip -oneline address
ip neigh show nud permanent
bridge fdb show | grep permanent || true
ip -4 route show table all
ip -6 route show table all
"""
# What the kernel does by itself, some time after a device is up, and forgets again. Local routes of
# IPv6 addresses come when duplicate address detection is over; an address has a line of its own.
_BY_ITSELF = re.compile(
    r"fe80::|ff00::/8|^33:33:|^01:00:5e:00:00:|^(local|anycast) [0-9a-f]*:.* proto kernel"
)
_PASSING = re.compile(r" (linkdown|tentative|dadfailed|nodad)\b")

Result = dict[str, t.Any]


class Modules:
    """Runs modules with the target's Python: the interpreter and pyroute2 are the target's,
    Ansible is that of the tests' environment."""

    def __enter__(self) -> Modules:
        self._path = tempfile.TemporaryDirectory(prefix="flatnet-modules-")
        collections = REPOSITORY / ".cache" / "collections" / "ansible_collections"
        Path(self._path.name, "ansible").symlink_to(Path(ansible.__file__).parent)
        Path(self._path.name, "ansible_collections").symlink_to(collections)
        self._worker = subprocess.Popen(
            [TARGET_PYTHON, str(Path(__file__).with_name("module_worker.py"))],
            env={**os.environ, "PYTHONPATH": self._path.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *failure: object) -> None:
        with self._worker:  # closes the pipes, which ends it, and waits
            pass
        self._path.cleanup()

    def run(self, **request: t.Any) -> dict[str, t.Any]:
        assert self._worker.stdin
        assert self._worker.stdout
        self._worker.stdin.write(json.dumps(request) + "\n")
        self._worker.stdin.flush()
        answer: dict[str, t.Any] = json.loads(self._worker.stdout.readline())
        return answer


class Namespace:
    """``u0`` (172.30.1.11/24, 172.30.1.21/24, fd30::11/64) and ``u1``, two ends of a pair."""

    def __init__(self, modules: Modules, ipv6: bool = True) -> None:
        self.name = f"flatnet-k{os.getpid()}-{next(_NUMBERS)}"
        self._modules = modules
        self._ipv6 = ipv6

    def __enter__(self) -> Namespace:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        try:
            # Without duplicate address detection nothing changes by itself a second later.
            six = "net.ipv6.conf.%s." + ("accept_dad=0" if self._ipv6 else "disable_ipv6=1")
            self.sh(
                f"sysctl -qw {six % 'all'} {six % 'default'}",
                "ip link set lo up",
                "ip link add u0 type veth peer name u1",
                "ip link set u0 up",
                "ip link set u1 up",
                "ip address add 172.30.1.11/24 dev u0",
                "ip address add 172.30.1.21/24 dev u0",
                *(["ip address add fd30::11/64 dev u0"] if self._ipv6 else []),
            )
            # The kernel makes an IPv6 address's own route a moment later, from a work queue.
            until = time.monotonic() + PATIENCE
            while self._ipv6 and "fd30::11" not in self.sh("ip -6 route show table local"):
                if time.monotonic() > until:
                    raise AssertionError("the namespace never got the route of its IPv6 address")
                time.sleep(0.01)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=True)

    def sh(self, *lines: str) -> str:
        """What commands print in here; each of them has to succeed."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, "sh", "-euc", "\n".join(lines)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def links(self) -> dict[str, dict[str, t.Any]]:
        """Every device, by name, as ip-link sees it; its kind's options beside the rest."""
        return _links(self.sh("ip -details -json link"))

    def state(self, indexes: bool = True) -> str:
        """All that the kernel holds, a line each, without what changes with time."""
        lines = []
        devices, *rest = self.sh(_STATE).splitlines()
        for name, link in _links(devices).items():
            link["up"] = "UP" in link["flags"]
            passing = ["flags", "operstate", "linkmode", *(key for key in link if "timer" in key)]
            kept = {key: value for key, value in link.items() if key not in passing}
            if not indexes:
                del kept["ifindex"]
            lines.append(f"{name} {json.dumps(kept, sort_keys=True)}")
        for line in rest:
            if not _BY_ITSELF.search(line):
                plain = _PASSING.sub("", line).strip()
                lines.append(plain if indexes else re.sub(r"^\d+: ", "", plain))
        return "\n".join(sorted(lines))

    def ifindex(self, device: str) -> int:
        return int(self.sh(f"cat /sys/class/net/{device}/ifindex"))

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """This thread is in the namespace."""
        return inside(self.name)

    def run(
        self,
        module: str,
        check: bool = False,
        uid: int = 0,
        without: t.Sequence[str] = (),
        **args: t.Any,
    ) -> Result:
        """What a module returns, whether it fails or not; a traceback is never right."""
        args.update(_ansible_check_mode=check, _ansible_diff=True)
        answer = self._modules.run(
            namespace=self.name, module=module, args=args, uid=uid, without=list(without)
        )
        assert not answer["err"], answer["err"]
        result: Result = json.loads(answer["out"])
        assert faults(module, result) == []
        assert answer["code"] == int(result.get("failed", False))
        return result

    def make(self, module: str, **args: t.Any) -> Result:
        """Check mode, which changes nothing, then the real run, which does what was announced."""
        before = self.state()
        planned = self.run(module, check=True, **args)
        same(before, self.state())
        done = self.run(module, **args)
        assert not done.get("failed"), done
        assert not planned.get("failed"), planned
        assert (planned["changed"], planned["diff"]) == (done["changed"], done["diff"])
        assert done["changed"] == (self.state() != before)
        return done

    def settle(self, module: str, **args: t.Any) -> Result:
        """``make`` something that is not there yet; a second run finds nothing to do."""
        done = self.make(module, **args)
        assert done["changed"]
        again = self.make(module, **args)
        assert not again["changed"]
        assert again["diff"] == {"before": "", "after": ""}
        return done

    def refuse(self, module: str, **args: t.Any) -> str:
        """The message with which a module fails, having changed nothing."""
        before = self.state()
        result = self.run(module, **args)
        assert result.get("failed"), result
        same(before, self.state())
        message: str = result["msg"]
        return message


def _links(text: str) -> dict[str, dict[str, t.Any]]:
    found = {}
    for each in json.loads(text):
        info = each.pop("linkinfo", {})
        each["kind"] = info.get("info_kind", "")
        found[each["ifname"]] = {**each, **info.get("info_data", {})}
    return found


def same(before: str, after: str) -> None:
    """Two states are equal; the lines that are not are shown."""
    change = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    assert before == after, "\n".join(change)


@contextlib.contextmanager
def inside(namespace: str) -> t.Iterator[None]:
    """This thread is in the network namespace of this name."""
    with (
        Path("/proc/thread-self/ns/net").open("rb") as here,
        Path("/run/netns", namespace).open("rb") as there,
    ):
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(here.fileno())


def _enter(descriptor: int) -> None:
    """setns(2), which Python has from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
