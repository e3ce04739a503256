# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flatnet_sync on a host without systemd: put in place, kept running, changed, removed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import subprocess
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.modules import CLOCK_SET_BACK, Result, run_module
from tests.integration.playbooks import Ansible, Site
from tests.lab import Host, Lab
from tests.lab.waiting import PATIENCE, wait

COMMAND = "/etc/flatnet/sbin/flatnet-sync"
SYNC = "flatnet.overlay.sync : Keep the host in the overlay"
PASSWORD = "s3cr3t-of-the-test"
NETWORK = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'
# Without what changes by itself, such as a bridge's timers.
_KERNEL = """
ip -o link
ip -d -o link show type vxlan
ip -4 -o addr
ip -4 route show table all
bridge fdb
ip neigh show nud permanent
"""


class Installed:
    """The module, and what it makes on one host."""

    def __init__(self, lab: Lab, host: Host) -> None:
        self.lab = lab
        self.host = host
        self.arguments: dict[str, t.Any] = {
            "etcd_endpoints": lab.etcd.endpoints,
            "etcd_timeout": 1.0,
            "prefix": "/etc/flatnet",
            "state_file": "/etc/flatnet/state",
            "bridge": "cni0",
            "sysctls": {"net.ipv4.ip_forward": 1},
        }

    def attempt(self, check: bool = False, first: str = "", **arguments: t.Any) -> Result:
        return run_module(
            self.host, "flatnet_sync", {**self.arguments, **arguments}, check, first=first
        )

    def run(self, **arguments: t.Any) -> Result:
        result = self.attempt(**arguments)
        assert not result["failed"], result["msg"]
        return result

    def make(self, **arguments: t.Any) -> Result:
        """Check mode, the real run, and once more, which finds nothing to do."""
        before = self.files()
        planned = self.run(check=True, **arguments)
        assert self.files() == before
        done = self.run(**arguments)
        assert done["changed"]
        for key in ("changed", "diff", "restarted", "version"):
            assert planned[key] == done[key]
        again = self.run(**arguments)
        assert not again["changed"]
        assert again["diff"] == []
        return done

    def files(self) -> dict[str, float]:
        """The host's files that are ours, and when they were written."""
        top = [self.host.etc / "flatnet", self.host.run / "flatnet"]
        found = [path for each in top for path in each.rglob("*") if not path.is_dir()]
        # A service writes its status whenever there is news, and its log; the data plane's revision
        # is the data plane's.
        names = ("status.json", "flatnet.prom", "lock", "installing", "state", "flatnet-sync.log")
        names += ("applied",)
        return {str(path): path.lstat().st_mtime for path in found if path.name not in names}

    @property
    def supervisor(self) -> int:
        return int((self.host.run / "flatnet/flatnet-sync.pid").read_text().split()[0])

    def program(self, other_than: int = 0) -> int:
        """The process id of the program itself."""
        return wait(lambda: next((p for p in children(self.supervisor) if p != other_than), 0))

    def status(self) -> dict[str, t.Any]:
        done = self.host.exec([COMMAND, "status", "--json"], check=True)
        found: dict[str, t.Any] = json.loads(done.stdout)
        return found

    def kernel(self) -> str:
        return self.host.exec(["sh", "-c", _KERNEL], check=True).stdout

    def diff(self, result: Result, where: str) -> tuple[str, str]:
        """Of one file or service, what was before and what is after; empty if nothing changed."""
        for each in result["diff"]:
            if each["after_header"] == where:
                return each["before"], each["after"]
        return "", ""


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def openers(path: Path) -> set[int]:
    """The processes that have the file open."""
    wanted, found = path.stat(), set()
    for each in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            status = each.stat()
            if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                found.add(int(each.parts[2]))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def lab(lab_factory: t.Callable[..., Lab]) -> Lab:
    built = lab_factory(hosts=2)
    built.etcd.put("/coreos.com/network/config", NETWORK)
    return built


@pytest.fixture
def there(lab: Lab) -> t.Iterator[Installed]:
    """Not yet installed; removed afterwards."""
    installed = Installed(lab, lab.hosts[0])
    yield installed
    installed.run(state="absent")


@pytest.fixture
def running(there: Installed) -> Installed:
    there.run()
    return there


def test_it_is_put_in_place_and_runs(there: Installed) -> None:
    done = there.make()
    assert done["restarted"]
    assert done["warnings"] == []
    assert done["sync"]["connected"]
    assert there.diff(done, "flatnet-sync") == ("absent\n", "enabled, running\n")
    assert there.diff(done, "package") == ("none\n", done["version"] + "\n")
    assert "add link flannel.1" in there.host.exec(["cat", "/run/flatnet/flatnet-sync.log"]).stdout
    version = there.host.exec([COMMAND, "--version"], check=True).stdout
    assert version == done["version"] + "\n"


def test_only_root_can_change_it(running: Installed) -> None:
    top = running.host.etc / "flatnet"
    for path in [top, *top.rglob("*")]:
        found = path.lstat()
        assert found.st_uid == 0
        assert path.is_symlink() or not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH), path
    assert stat.S_IMODE((top / "sync.json").stat().st_mode) == 0o600
    bytecode = list((top / "lib/flatnet-sync/current/flatnet").rglob("__pycache__/*.pyc"))
    assert len(bytecode) > 20


def test_what_is_killed_comes_back(running: Installed) -> None:
    first = running.program()
    os.kill(first, signal.SIGKILL)
    second = running.program(other_than=first)
    assert alive(second)
    wait(lambda: not alive(first))
    assert "ended with status -9; it is started again" in log(running)
    assert not running.run()["changed"]


def test_a_killed_supervisor_takes_the_program_along(running: Installed) -> None:
    supervisor, program = running.supervisor, running.program()
    os.kill(supervisor, signal.SIGKILL)
    wait(lambda: not alive(program))
    done = running.make()
    assert running.diff(done, "flatnet-sync") == ("enabled, not running\n", "enabled, running\n")
    assert done["sync"]["connected"]


def log(installed: Installed) -> str:
    return (installed.host.run / "flatnet/flatnet-sync.log").read_text()


def test_its_mode_is_changed(running: Installed) -> None:
    program = running.program()
    done = running.make(mode="timer", check_interval=1)
    assert done["restarted"]
    assert not alive(program)
    first = running.status()["started"]
    wait(lambda: running.status()["started"] > first)
    assert running.status()["errors"] == []

    supervisor = running.supervisor
    running.make(mode="none")
    assert not alive(supervisor)
    # Each run leaves what a boot restores.
    state = running.host.etc / "flatnet/state"
    state.unlink()
    assert not running.run(mode="none")["changed"]
    assert state.exists()

    assert running.make(mode="service")["restarted"]
    assert alive(running.program())


@pytest.mark.parametrize("mode", ["service", "timer", "none"])
def test_a_clock_that_is_set_back_meanwhile_changes_nothing(there: Installed, mode: str) -> None:
    """Bad luck: a host's clock is set for the first time while the program starts."""
    done = there.run(mode=mode, first=CLOCK_SET_BACK)
    assert done["sync"]["peers"] == 0
    assert not there.run(mode=mode, first=CLOCK_SET_BACK)["changed"]
    again = there.run(mode=mode, check_interval=50, first=CLOCK_SET_BACK)
    assert again["sync"]["started"] > done["sync"]["started"]


def test_new_settings_start_it_anew(running: Installed) -> None:
    program = running.program()
    done = running.make(check_interval=30, metrics_file="/run/flatnet/flatnet.prom")
    assert done["restarted"]
    after = running.diff(done, "flatnet-sync")[1]
    assert after == "enabled, running, started anew\n"
    assert not alive(program)
    metrics = running.host.run / "flatnet/flatnet.prom"
    assert "flatnet_connected 1" in metrics.read_text()
    running.make()
    assert not metrics.exists()  # nobody keeps it right any more


def test_a_password_is_not_shown(running: Installed) -> None:
    done = running.attempt(etcd_username="flatnet", etcd_password=PASSWORD)
    other = running.attempt(etcd_username="flatnet", etcd_password=PASSWORD + "2")
    file = running.host.etc / "flatnet/sync.json"
    assert PASSWORD + "2" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert '"password": "hidden"' in running.diff(other, "/etc/flatnet/sync.json")[0]
    assert '"password": "another one"' in running.diff(other, "/etc/flatnet/sync.json")[1]
    shown = [json.dumps(done), json.dumps(other), log(running), json.dumps(running.status())]
    assert not [text for text in shown if PASSWORD in text]


def test_another_version_replaces_it_and_is_started_once(running: Installed) -> None:
    top = running.host.etc / "flatnet/lib/flatnet-sync"
    current = os.readlink(top / "current")
    old = top / "0.0.9-000000000000"
    (top / current).rename(old)
    (old / "flatnet/sync/agent.py").write_text("# an agent of another time\n")
    (top / "current").unlink()
    (top / "current").symlink_to(old.name)
    program = running.program()
    done = running.make()
    assert running.diff(done, "package") == (old.name + "\n", current + "\n")
    assert [each["after_header"] for each in done["diff"]] == ["package", "flatnet-sync"]
    assert not alive(program)
    assert done["sync"]["connected"]
    assert sorted(each.name for each in top.iterdir()) == [current, "current"]


def test_what_was_changed_in_it_is_put_right(running: Installed) -> None:
    package = running.host.etc / "flatnet/lib/flatnet-sync/current/flatnet"
    with (package / "sync/command.py").open("a") as file:
        file.write("# somebody was here\n")
    (package / "etcd/values.py").chmod(0o666)
    done = running.make()
    before = running.diff(done, "package")[0]
    assert "sync/command.py was changed" in before
    assert "etcd/values.py has other permissions" in before
    assert done["restarted"]


def test_a_run_that_was_cut_short_is_made_up_for(running: Installed) -> None:
    program = running.program()
    (running.host.etc / "flatnet/sync.changing").touch()
    assert running.make()["restarted"]
    assert not alive(program)


def test_an_etcd_that_is_away_is_a_warning(there: Installed) -> None:
    done = there.run(etcd_endpoints=["http://172.21.0.99:2379"], etcd_timeout=0.3)
    assert len(done["warnings"]) == 1
    assert "172.21.0.99" in done["warnings"][0]
    assert not there.run(etcd_endpoints=["http://172.21.0.99:2379"], etcd_timeout=0.3)["changed"]


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("python", "/no/python", "python: /no/python is not"),
        ("python", "python3", "python: "),
        ("prefix", "usr", "prefix: usr is not an absolute path"),
        ("bridge", "a name too long for it", "bridge: "),
        ("vtep_mac", "ff:ff:ff:ff:ff:ff", "vtep_mac"),
        ("ttl", -1, "ttl: -1 is less than 0"),
        ("check_interval", 0, "check_interval: 0"),
        ("retention", -1, "retention: -1"),
        ("restore_wait", -1, "restore_wait: -1"),
        ("state_file", "state", "state_file: 'state' is not an absolute path"),
        ("sysctls", {"kernel.panic": 1}, "sysctls: 'kernel.panic' is not a name"),
        ("sysctls", {"net.ipv4/../../kernel": 1}, "sysctls: "),
        ("public_ip", "nowhere", "public_ip"),
        ("interface_regex", "(", "interface_regex"),
        ("etcd_endpoints", ["ftp://172.21.0.2"], "ftp://172.21.0.2"),
        ("etcd_prefix", "network", "etcd_prefix"),
    ],
)
def test_bad_input_changes_nothing(there: Installed, option: str, value: t.Any, text: str) -> None:
    for check in (True, False):
        result = there.attempt(check, **{option: value})
        assert result["failed"]
        assert text in result["msg"]
    assert there.files() == {}


def test_removed_it_leaves_nothing_but_the_data_plane(running: Installed) -> None:
    supervisor, program = running.supervisor, running.program()
    before = running.kernel()
    assert "flannel.1" in before
    running.make(state="absent")
    assert not alive(supervisor)
    assert not alive(program)
    assert running.kernel() == before
    assert running.files() == {}
    assert not (running.host.etc / "flatnet").exists()
    # The modules need it as well.
    left = {path.name for path in (running.host.run / "flatnet").iterdir()}
    assert left == {"lock", "installing", "applied"}


def test_modules_and_the_program_take_turns(running: Installed) -> None:
    arguments = {"prefix": "192.0.2.0/24", "device": "eth0"}
    with (running.host.run / "flatnet/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_module(running.host, "route_entry", arguments, check=True)["changed"]
        with ThreadPoolExecutor() as pool:
            running_module = pool.submit(run_module, running.host, "route_entry", arguments)
            wait(lambda: len(openers(Path(lock.name))) > 1, "the module at the lock")
            assert not running_module.done()
            assert "192.0.2.0" not in running.host.exec(["ip", "route"]).stdout
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert running_module.result()["changed"]


def test_restore_waits_for_the_underlay(running: Installed) -> None:
    running.make(mode="none", restore_wait=PATIENCE)
    host, before = running.host, comparable(running.kernel())
    unplug(host)
    assert "flannel.1" not in running.kernel()
    with subprocess.Popen(host.command([COMMAND, "restore"]), stderr=subprocess.PIPE) as restore:
        assert restore.stderr is not None
        assert b"waiting for" in restore.stderr.readline()
        plug(host, host.address)
        assert restore.wait(PATIENCE) == 0
    wait(lambda: comparable(running.kernel()) == before, "the kernel as it was")


def test_restore_refuses_another_underlay(running: Installed) -> None:
    running.make(mode="none", restore_wait=1)
    host = running.host
    unplug(host)
    plug(host, "172.21.0.77")
    done = host.exec([COMMAND, "restore"])
    assert done.returncode == 1
    assert "the underlay's address was %s/16 on eth0 and is 172.21.0.77" % host.address in (
        done.stderr
    )
    assert "flannel.1" not in running.kernel()
    host.exec(["ip", "address", "del", "172.21.0.77/16", "dev", "eth0"], check=True)
    plug(host, host.address)


def unplug(host: Host) -> None:
    """The kernel as it is right after a boot."""
    for line in ("link del flannel.1", "link del cni0", f"address del {host.address}/16 dev eth0"):
        host.exec(["ip", *line.split()], check=True)


def plug(host: Host, address: str) -> None:
    host.exec(["ip", "address", "add", f"{address}/16", "brd", "+", "dev", "eth0"], check=True)
    host.exec(["ip", "route", "replace", "default", "via", "172.21.0.1"])


def comparable(kernel: str) -> list[str]:
    """Without what a new device has anew: its number."""
    return sorted(line.partition(": ")[2] or line for line in kernel.splitlines())


def test_a_lab_takes_its_programs_along() -> None:
    with Lab(f"t{os.getpid()}-gone", hosts=1) as lab:
        lab.etcd.put("/coreos.com/network/config", NETWORK)
        installed = Installed(lab, lab.hosts[0])
        installed.run()
        pids = [installed.supervisor, installed.program()]
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)


# --- as a step of site.yml ------------------------------------------------------------------------


def test_site_leaves_the_service_nothing_to_do(
    lab_factory: t.Callable[..., Lab], ansible: Ansible
) -> None:
    lab = lab_factory(hosts=3)
    site = Site(lab, ansible, sync="service")
    checked = site.play("playbooks/site.yml", "--check", "--diff")
    first = site.play("playbooks/site.yml", "--diff")
    assert SYNC in {task for _host, task in checked.changed()}
    assert checked.changed() == first.changed()
    programs = {host.name: Installed(lab, host) for host in lab.hosts}
    told = {host: each.status() for host, each in programs.items()}
    # The first host knew of the others when its peers were made, as the last did of the first.
    assert [each["changes"] for each in told.values()] == [0, 0, 0]
    assert [each["peers"] for each in told.values()] == [2, 2, 2]
    written = {host.name: subnet_env(host) for host in lab.hosts}

    kernel, pids = site.kernel(), [each.program() for each in programs.values()]
    assert site.play("playbooks/site.yml").changed() == set()
    assert site.kernel() == kernel
    assert [each.program() for each in programs.values()] == pids
    assert {host.name: subnet_env(host) for host in lab.hosts} == written

    # What leaves is not brought back, and the others let go of it by themselves.
    site.play("playbooks/remove.yml", flatnet_remove="host3")
    assert not alive(pids[2])
    wait(lambda: programs["host1"].status()["peers"] == 1)
    assert len(lab.etcd.get_prefix("/coreos.com/network/subnets/")) == 2


def subnet_env(host: Host) -> tuple[float, str]:
    file = host.run / "flannel/subnet.env"
    return file.stat().st_mtime, file.read_text()


def test_where_it_is_managed_from_is_remembered(
    running: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no lease takes the host away from whoever manages it; two of them do not disagree."""
    file = running.host.etc / "flatnet/sync.json"
    for address, known in (
        ("203.0.113.5", ["203.0.113.5"]),
        ("203.0.113.6", ["203.0.113.5", "203.0.113.6"]),
    ):
        monkeypatch.setenv("SSH_CONNECTION", f"{address} 50000 192.0.2.1 22")
        assert running.run()["changed"]
        assert json.loads(file.read_text())["controllers"] == known
        assert not running.run()["changed"]
    monkeypatch.setenv("SSH_CONNECTION", "203.0.113.5 50001 192.0.2.1 22")
    assert not running.run()["changed"]
