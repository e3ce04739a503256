# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""tun_relay on a host without systemd: put in place, kept running, changed, removed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration import modules
from tests.integration.install.test_sync import alive, children
from tests.integration.modules import CLOCK_SET_BACK, Result, run_module
from tests.integration.playbooks import Ansible, Run, Site
from tests.lab import Host, Lab
from tests.lab.waiting import wait
from tests.relay.hosts import lose_reload

COMMAND = "/etc/flatnet/sbin/flatnet-relay"
TABLE = "/etc/flatnet/relay-table.json"
MAKE = "flatnet.overlay.backend : Make the relay"
REMOVE = "flatnet.overlay.backend : Remove the relay that an earlier backend has left"
CONFIG = '{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}'
# Without what depends on whether somebody has the device open.
_KERNEL = """
ip -o link | awk '{ print $2, $5 }'
ip -4 -o addr
ip -4 route show table all | sed 's/ linkdown//'
getent passwd
getent group
cat /etc/shadow
"""


class Relay:
    """The module, and what it makes on one host. The first host's subnet is 10.5.1.0/24."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab = lab
        self.host: Host = lab.hosts[number - 1]
        self.address = "10.5.%d.0" % number
        self.arguments: dict[str, t.Any] = {
            "network": "10.5.0.0/16",
            "subnet": "10.5.%d.0/24" % number,
            "listen": self.host.address,
            "prefix": "/etc/flatnet",
            "table_file": TABLE,
            "table": [
                {"subnet": "10.5.%d.0/24" % (i + 1), "address": host.address, "vector": 1}
                for i, host in enumerate(lab.hosts)
                if host is not self.host
            ],
        }

    def attempt(self, check: bool = False, first: str = "", **arguments: t.Any) -> Result:
        return run_module(
            self.host, "tun_relay", {**self.arguments, **arguments}, check, first=first
        )

    def run(self, **arguments: t.Any) -> Result:
        result = self.attempt(**arguments)
        assert not result["failed"], result["msg"]
        return result

    def make(self, **arguments: t.Any) -> Result:
        """Check mode, the real run, and once more, which finds nothing to do."""
        before = self.files(), self.kernel()
        planned = self.run(check=True, **arguments)
        assert (self.files(), self.kernel()) == before
        done = self.run(**arguments)
        assert done["changed"]
        for key in ("changed", "diff", "restarted", "version", "command"):
            assert planned[key] == done[key]
        again = self.run(**arguments)
        assert again["diff"] == []
        assert not again["changed"]
        assert not again["restarted"]
        return done

    def files(self) -> dict[str, float]:
        """The host's files that are ours, and when they were written."""
        tops = [self.host.etc / "flatnet", self.host.run / "flatnet"]
        tops.append(self.host.run / "flatnet-relay")
        found = [path for top in tops for path in top.rglob("*") if not path.is_dir()]
        # What a service writes when there is news is nobody else's doing.
        names = ("lock", "installing", "relay.prom", "flatnet-relay.log")
        names += ("status.json", "flatnet-sync.log")
        return {str(path): path.lstat().st_mtime for path in found if path.name not in names}

    def kernel(self) -> str:
        """Its devices, routes and users."""
        return self.host.exec(["sh", "-c", _KERNEL], check=True).stdout

    @property
    def supervisor(self) -> int:
        return int((self.host.run / "flatnet/flatnet-relay.pid").read_text().split()[0])

    def program(self, other_than: int = 0) -> int:
        """The process id of the relay itself."""
        return wait(lambda: next((p for p in children(self.supervisor) if p != other_than), 0))

    def status(self) -> dict[str, t.Any]:
        done = self.host.exec([COMMAND, "status", "--json"], check=True)
        found: dict[str, t.Any] = json.loads(done.stdout)
        return found

    def answers(self) -> bool:
        return self.host.exec([COMMAND, "status"]).returncode == 0

    def reaches(self, other: Relay) -> bool:
        words = ["ping", "-n", "-c", "1", "-W", "5", "-I", self.address, other.address]
        return self.host.exec(words).returncode == 0

    def diff(self, result: Result, where: str) -> tuple[str, str]:
        """Of one thing, what was before and what is after; empty if nothing changed."""
        for each in result["diff"]:
            if each["after_header"] == where:
                return each["before"], each["after"]
        return "", ""

    def ip(self, line: str) -> str:
        return self.host.exec(["ip", *line.split()], check=True).stdout

    @property
    def port(self) -> set[str]:
        """The sockets that have its port, by number: one that is bound anew has another one."""
        found = self.host.exec(["ss", "-Hulne", "sport = :8285"], check=True).stdout
        return set(re.findall(r" ino:(\d+) ", found))

    @property
    def index(self) -> int:
        """The number of its device: a device that is made anew has another one."""
        return int(json.loads(self.ip("-j link show flannel0"))[0]["ifindex"])


@pytest.fixture(scope="module")
def lab(lab_factory: t.Callable[..., Lab]) -> Lab:
    built = lab_factory(hosts=2)
    built.etcd.put("/coreos.com/network/config", CONFIG)
    return built


@pytest.fixture
def there(lab: Lab) -> t.Iterator[Relay]:
    """Not yet installed; removed afterwards."""
    relay = Relay(lab, 1)
    yield relay
    relay.run(state="absent")


@pytest.fixture
def running(there: Relay) -> Relay:
    there.run()
    return there


@pytest.fixture(scope="module")
def peer(lab: Lab) -> t.Iterator[Relay]:
    """The other host's, which runs all along."""
    relay = Relay(lab, 2)
    relay.run()
    yield relay
    relay.run(state="absent")


def test_it_is_put_in_place_and_carries(there: Relay, peer: Relay) -> None:
    done = there.make()
    assert done["restarted"]
    assert done["warnings"] == []
    assert there.diff(done, "user flatnet-relay") == ("absent\n", "present\n")
    assert there.diff(done, "flatnet-relay") == ("absent\n", "enabled, running\n")
    assert there.diff(done, "package") == ("none\n", done["version"] + "\n")
    assert there.diff(done, TABLE)[1].startswith("relay 10.5.2.0/24 to 172.21.0.12, vector 1\n")
    assert done["relay"]["settings"]["mtu"] == 1472
    assert done["relay"]["table"].items() >= {"peers": 1, "revision": 0}.items()
    assert there.reaches(peer)
    assert peer.reaches(there)
    assert "proto 110" in there.ip("route show 10.5.0.0/16")
    version = there.host.exec([COMMAND, "--version"], check=True).stdout
    assert version == done["version"] + "\n"


def test_it_has_no_rights(running: Relay) -> None:
    pid = running.program()
    for each in (pid, *children(pid)):
        lines = dict(
            line.split(":\t") for line in Path("/proc/%d/status" % each).read_text().splitlines()
        )
        found = running.host.exec(["id", "-u", "flatnet-relay"], check=True).stdout.strip()
        assert set(lines["Uid"].split()) == {found} != {"0"}
        assert {int(lines[name], 16) for name in ("CapEff", "CapPrm", "CapInh")} == {0}
    account = running.host.exec(["getent", "passwd", "flatnet-relay"], check=True).stdout
    assert account.strip().endswith(":flatnet.overlay:/nonexistent:/usr/sbin/nologin")


def test_only_root_can_change_it(running: Relay) -> None:
    top = running.host.etc / "flatnet"
    for path in [top, *top.rglob("*")]:
        found = path.lstat()
        assert found.st_uid == 0
        assert path.is_symlink() or not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH), path


def test_whatever_the_umask_its_user_can_read_it(there: Relay) -> None:
    mask = os.umask(0o077)
    try:
        there.make()
    finally:
        os.umask(mask)


def test_what_is_killed_is_back(running: Relay, peer: Relay) -> None:
    index, route = running.index, running.ip("route show 10.5.0.0/16")
    for dummy in range(4):  # not more slowly the more often it happens
        first = running.program()
        os.kill(first, signal.SIGKILL)
        wait(lambda: running.reaches(peer) and running.answers())
        assert running.program() != first
    # A worker alone is no relay.
    first = running.program()
    os.kill(children(first)[0], signal.SIGKILL)
    wait(lambda: not alive(first))
    wait(lambda: running.reaches(peer) and running.answers())
    assert (running.index, running.ip("route show 10.5.0.0/16")) == (index, route)
    assert not running.run()["changed"]


def test_a_killed_supervisor_takes_the_relay_along(running: Relay, peer: Relay) -> None:
    program = running.program()
    os.kill(running.supervisor, signal.SIGKILL)
    wait(lambda: not alive(program))
    done = running.make()
    assert running.diff(done, "flatnet-relay") == ("enabled, not running\n", "enabled, running\n")
    assert running.reaches(peer)


def test_it_is_restarted_on_request(running: Relay, peer: Relay) -> None:
    pid, index, supervisor, port = (
        running.program(),
        running.index,
        running.supervisor,
        running.port,
    )
    planned = running.run(state="restarted", check=True)
    assert running.program() == pid
    done = running.run(state="restarted")
    assert planned["changed"]
    assert planned["diff"] == done["diff"]
    after = running.diff(done, "flatnet-relay")[1]
    assert after == "enabled, running, started anew\n"
    assert not alive(pid)
    assert (running.index, running.supervisor, running.port) == (index, supervisor, port)
    assert running.reaches(peer)
    assert not running.run()["changed"]


def test_a_clock_that_is_set_back_meanwhile_changes_nothing(there: Relay) -> None:
    """Bad luck: a host's clock is set for the first time while the relay starts."""
    before = there.run(first=CLOCK_SET_BACK)["relay"]["pid"]
    assert not there.run(first=CLOCK_SET_BACK)["changed"]
    assert there.run(port=8286, first=CLOCK_SET_BACK)["relay"]["pid"] != before


def test_new_settings_start_it_anew_on_the_same_device(running: Relay, peer: Relay) -> None:
    pid, index, port = running.program(), running.index, running.port
    done = running.make(mtu=1400, workers=2, vector=False)
    assert done["restarted"]
    assert not alive(pid)
    assert running.index == index
    assert running.port > port, "it keeps the socket, and has another one for the other worker"
    assert running.status()["workers"] == 2
    assert "mtu 1400" in running.ip("link show flannel0")
    assert running.reaches(peer)


def test_another_address_or_network_leaves_nothing_of_before(running: Relay) -> None:
    running.make(subnet="10.6.7.0/24", network="10.6.0.0/16", table=[])
    assert running.ip("-4 -o addr show flannel0").split()[3] == "10.6.7.0/32"
    assert [line.split()[0] for line in running.ip("route show dev flannel0").splitlines()] == [
        "10.6.0.0/16"
    ]


def test_another_device_replaces_the_one_of_before(running: Relay, peer: Relay) -> None:
    running.make(name="tunnel0")
    assert running.host.exec(["ip", "link", "show", "flannel0"]).returncode
    assert running.reaches(peer)
    # Removed by its settings, not by its default name.
    running.make(state="absent")
    assert running.host.exec(["ip", "link", "show", "tunnel0"]).returncode


def test_a_new_table_is_taken_up_without_a_restart(running: Relay, peer: Relay) -> None:
    pid = running.program()
    table = [{"subnet": "10.5.9.0/24", "address": "172.21.0.99"}]
    done = running.make(table=table)
    assert not done["restarted"]
    assert [each["after_header"] for each in done["diff"]] == [TABLE]
    assert not running.reaches(peer)
    running.make()
    assert running.reaches(peer)
    assert running.program() == pid


def test_a_table_of_others_is_left_alone(running: Relay, peer: Relay) -> None:
    running.arguments["table"] = None
    assert not running.run()["changed"]
    assert running.reaches(peer)
    file = running.host.etc / "flatnet/relay-table.json"
    file.write_text("{")
    # A relay that runs goes on with the one before; to one that starts it is of no use.
    assert not running.run()["changed"]
    assert running.reaches(peer)
    assert running.make(mtu=1300)["relay"]["table"]["peers"] == 0
    assert file.read_text() == "{"
    file.unlink()
    assert running.make()["relay"]["table"]["peers"] == 0


@pytest.mark.parametrize("whose", ["given", "others"])
def test_a_relay_that_was_not_told_of_its_table_is(running: Relay, peer: Relay, whose: str) -> None:
    """The file is right, and the relay uses what was there before."""
    if whose == "others":
        running.arguments["table"] = None
    host = running.host
    lose_reload(host.etc / "flatnet/relay-table.json", str(host.run / "flatnet-relay/control"))
    assert not running.reaches(peer)
    done = running.make()
    assert "revision 0" in running.diff(done, "relay")[0]
    assert not done["restarted"]
    assert running.reaches(peer)


def test_a_device_that_is_gone_comes_back_with_all(running: Relay, peer: Relay) -> None:
    running.ip("link del flannel0")
    done = running.make()
    assert done["restarted"]
    assert running.reaches(peer)
    # What is missing is no reason for a restart if the relay can go on.
    pid = running.program()
    running.ip("route del 10.5.0.0/16 dev flannel0")
    running.ip("addr add 10.77.0.1/32 dev flannel0")
    assert not running.make()["restarted"]
    assert running.program() == pid
    assert "10.77" not in running.ip("addr show flannel0")
    assert running.reaches(peer)


def test_what_is_somebody_elses_is_left_alone(there: Relay) -> None:
    there.ip("link add flannel0 type bridge")
    try:
        for check in (True, False):
            assert "flannel0 exists and is a bridge device" in there.attempt(check)["msg"]
        assert there.files() == {}
        assert "flannel0 is a bridge device" in there.attempt(state="absent")["msg"]
    finally:
        there.ip("link del flannel0")
    there.ip("route add 10.5.0.0/16 dev eth0")
    try:
        for check in (True, False):
            assert "routes of somebody else are in the way" in there.attempt(check)["msg"]
        assert there.files() == {}
    finally:
        there.ip("route del 10.5.0.0/16 dev eth0")


def test_files_that_were_changed_are_put_right(running: Relay, peer: Relay) -> None:
    top = running.host.etc / "flatnet"
    with (top / "lib/flatnet-relay/current/flatnet/relay/worker.py").open("a") as file:
        file.write("# somebody was here\n")
    (top / "relay.json").write_text("{")
    (top / "sbin/flatnet-relay").chmod(0o777)
    done = running.make()
    assert "relay/worker.py was changed" in running.diff(done, "package")[0]
    assert "mode 0777" in running.diff(done, COMMAND)[0]
    assert done["restarted"]
    (top / "relay-table.json").chmod(0o600)
    assert not running.make()["restarted"]
    (top / "lib/flatnet-relay/current").unlink()
    assert running.make()["restarted"]
    assert running.reaches(peer)


def test_a_run_that_was_cut_short_is_made_up_for(there: Relay, peer: Relay) -> None:
    """Killed after ever longer times, until one comes to its end."""
    seconds, cut = 0.1, 0
    while not killed(there, seconds):
        cut += 1
        seconds += 0.15
    assert cut
    assert not there.run()["changed"]
    # The same while it is removed, and made up for by making it.
    seconds = 0.1
    while not killed(there, seconds, state="absent"):
        seconds += 0.15
        there.run()
        assert there.reaches(peer)


def killed(relay: Relay, seconds: float, **arguments: t.Any) -> bool:
    """Run the module, and kill it after so long; whether it had ended."""
    options = {"_ansible_check_mode": False, "_ansible_diff": True, **relay.arguments, **arguments}
    done = relay.host.exec(
        ["timeout", "-s", "KILL", str(seconds), modules.PYTHON, "-c", modules.RUNNER],
        stdin=json.dumps([modules.MODULES + "tun_relay", [options]]),
        env=modules.environment(),
    )
    return done.returncode == 0


def test_a_run_that_left_its_mark_starts_it_anew(running: Relay) -> None:
    pid = running.program()
    (running.host.etc / "flatnet/relay.changing").touch()
    assert running.make()["restarted"]
    assert not alive(pid)


def test_metrics_are_written_where_the_user_may(running: Relay) -> None:
    running.make(metrics_file="/run/metrics/relay.prom")
    file = running.host.run / "metrics/relay.prom"
    wait(file.exists)
    assert "flatnet_relay_peers 1" in file.read_text()
    running.make()
    assert not file.exists()
    file.parent.chmod(0o755)
    os.chown(file.parent, 0, 0)
    failed = running.attempt(metrics_file="/run/metrics/relay.prom")
    assert failed["msg"].startswith(
        "metrics_file: user flatnet-relay may not write in /run/metrics"
    )
    running.make()


def test_a_user_of_others_is_used_and_stays(there: Relay, peer: Relay) -> None:
    before = there.kernel()
    there.make(user="nobody")
    assert there.reaches(peer)
    done = there.make()
    assert there.diff(done, "user flatnet-relay") == ("absent\n", "present\n")
    assert there.reaches(peer)
    done = there.make(user="nobody")
    assert there.diff(done, "user flatnet-relay") == ("present\n", "absent\n")
    there.make(state="absent", user="nobody")
    assert there.kernel() == before


def test_a_relay_that_cannot_start_is_an_error(running: Relay) -> None:
    code = "import socket as s, time; x = s.socket(2, 2); x.bind(('%s', 8299)); print(flush=True)"
    code = code % running.host.address + "; time.sleep(60)"
    with subprocess.Popen(
        running.host.command(["python3", "-c", code]), stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        result = running.attempt(port=8299)
        other.kill()
    assert result["failed"]
    assert "flatnet-relay is not ready after 10 seconds: " in result["msg"]
    assert "cannot listen on 172.21.0.11:8299: Address already in use" in result["msg"]
    assert running.run(port=8299)["restarted"]
    assert not running.run(port=8299)["changed"]


# --- with leases --------------------------------------------------------------------------------


@pytest.fixture
def leased(lab: Lab, there: Relay) -> t.Iterator[Relay]:
    """Leases of both hosts, and nothing else, are in etcd; the module is to read them."""
    for number, host in enumerate(lab.hosts, 1):
        asked = {"etcd_endpoints": lab.etcd.endpoints, "subnet": f"10.5.{number}.0/24"}
        done = run_module(host, "flannel_subnet", asked)
        assert not done["failed"], done["msg"]
        if host is there.host:
            there.arguments["subnet"] = done["lease"]["subnet"]
    there.arguments.update(table=None, from_leases=True, etcd_endpoints=lab.etcd.endpoints)
    yield there
    lab.etcd.ctl("del", "--prefix", "/coreos.com/network/subnets/")
    lab.etcd.ctl("del", "--prefix", "/coreos.com/network/flatnet/")


def test_the_table_comes_from_the_leases(lab: Lab, leased: Relay) -> None:
    done = leased.make()
    assert done["warnings"] == []
    assert "to 172.21.0.12, vector 1" in leased.diff(done, TABLE)[1]
    prefix = "/coreos.com/network/subnets/"
    lab.etcd.put(prefix + "10.5.200.0-24", '{"PublicIP":"172.21.0.77","PublicIPv6":null}')
    done = leased.make()
    assert not done["restarted"]
    assert "10.5.200.0/24 to 172.21.0.77, vector 0" in leased.diff(done, TABLE)[1]
    # What nobody understands takes nobody away.
    lab.etcd.put(prefix + "10.5.200.0-24", "garbage")
    again = leased.run()
    assert not again["changed"]
    assert "10.5.200.0-24" in again["warnings"][0]
    lab.etcd.ctl("del", prefix + "10.5.200.0-24")
    leased.make()
    assert leased.status()["table"]["peers"] == 1


@pytest.mark.parametrize("from_leases", [True, False])
def test_what_flatnet_sync_writes_meanwhile_stays(
    lab: Lab, leased: Relay, from_leases: bool
) -> None:
    """It follows etcd, so its table is of a later revision than the one that the module has made
    from the leases that it has read, or than the one that the module has found."""
    leased.make()
    lease = '{"PublicIP":"172.21.0.%d","PublicIPv6":null}'
    prefix = "/coreos.com/network/subnets/"
    lab.etcd.put(prefix + "10.5.200.0-24", lease % 77)
    file = leased.host.etc / "flatnet/relay-table.json"
    with (
        open(leased.host.run / "flatnet/lock", "r+", encoding="ascii") as lock,
        ThreadPoolExecutor() as thread,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = thread.submit(leased.run, from_leases=from_leases, workers=2)
        # It has made its table, and waits for the lock.
        mark = leased.host.etc / "flatnet/relay.changing"
        wait(lambda: mark.exists() or done.done(), "the module waits")
        lab.etcd.put(prefix + "10.5.201.0-24", lease % 78)
        table = json.loads(file.read_text())
        table["peers"] += [["10.5.200.0/24", "172.21.0.77", 0], ["10.5.201.0/24", "172.21.0.78", 0]]
        table["revision"] += 2
        file.write_text(json.dumps(table))
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert done.result()["changed"]
    subnets = {subnet for subnet, _address, _vector in json.loads(file.read_text())["peers"]}
    assert {"10.5.200.0/24", "10.5.201.0/24"} < subnets
    assert leased.status()["table"]["peers"] == 3
    assert not leased.run(from_leases=from_leases, workers=2)["changed"]


def test_leases_that_do_not_fit_change_nothing(lab: Lab, leased: Relay) -> None:
    leased.make()
    before = leased.files()
    other = leased.attempt(subnet="10.5.201.0/24")
    assert other["msg"].startswith("subnet: 10.5.201.0/24 is given, but etcd has 10.5.")
    assert "lease of this host" in leased.attempt(public_ip="172.21.0.78", host_id="x")["msg"]
    assert "etcd" in leased.attempt(etcd_endpoints=["http://127.0.0.1:1"])["msg"]
    for key in lab.etcd.get_prefix("/coreos.com/network/subnets/"):
        if leased.arguments["subnet"].replace("/", "-") not in key:
            lab.etcd.ctl("del", key)
    assert "nothing was removed" in leased.attempt()["msg"]
    assert leased.files() == before
    leased.make(allow_no_peers=True)
    assert leased.status()["table"]["peers"] == 0


# --- beside flatnet-sync --------------------------------------------------------------------------


class Sync:
    """flatnet-sync on the same host, which has nothing to do there: no etcd answers."""

    def __init__(self, relay: Relay) -> None:
        self.host = relay.host
        self._arguments = {
            "etcd_endpoints": ["http://127.0.0.1:1"],
            "etcd_timeout": 0.3,
            "prefix": "/etc/flatnet",
            "state_file": "/etc/flatnet/state",
        }

    def run(self, **arguments: t.Any) -> Result:
        result = run_module(self.host, "flatnet_sync", {**self._arguments, **arguments})
        assert not result["failed"], result["msg"]
        return result

    def program(self) -> int:
        supervisor = int((self.host.run / "flatnet/flatnet-sync.pid").read_text().split()[0])
        return int(wait(lambda: children(supervisor))[0])


@pytest.fixture
def sync(running: Relay) -> t.Iterator[Sync]:
    """Both run."""
    made = Sync(running)
    made.run()
    yield made
    made.run(state="absent")


def test_each_is_started_anew_for_its_own_sources_only(running: Relay, sync: Sync) -> None:
    relay, other = running.program(), sync.program()
    append(current(running.host, "sync") / "flatnet/fields.py")
    assert not running.run()["changed"]
    assert running.program() == relay
    assert sync.run()["restarted"]
    assert not alive(other)

    other = sync.program()
    append(current(running.host, "relay") / "flatnet/fields.py")
    assert not sync.run()["changed"]
    assert sync.program() == other
    done = running.make()
    assert "fields.py was changed" in running.diff(done, "package")[0]
    assert done["restarted"]
    assert not alive(relay)


def current(host: Host, program: str) -> Path:
    return host.etc / f"flatnet/lib/flatnet-{program}/current"


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("# somebody was here\n")


def test_one_package_of_both_stays_for_as_long_as_one_needs_it(running: Relay, sync: Sync) -> None:
    """Earlier versions had one for all programs. Each program leaves it with its next run."""
    top = running.host.etc / "flatnet"
    shared = top / "lib/flatnet"
    for program in ("relay", "sync"):
        version = current(running.host, program).resolve()
        shutil.copytree(version, shared / "0.1.0-0123456789ab", dirs_exist_ok=True)
        shutil.rmtree(current(running.host, program).parent)
        launcher = top / "sbin" / f"flatnet-{program}"
        launcher.write_text(
            launcher.read_text().replace(f"flatnet-{program}/current", "flatnet/current")
        )
    (shared / "current").symlink_to("0.1.0-0123456789ab")
    relay, other = running.program(), sync.program()
    done = running.make()
    assert running.diff(done, "package")[0] == "none\n"
    assert done["restarted"]
    assert not alive(relay)
    assert alive(other)
    assert shared.exists()
    assert sync.run()["restarted"]
    assert not alive(other)
    assert not shared.exists()
    assert not running.run()["changed"]
    assert not sync.run()["changed"]


def test_the_other_stays_when_one_is_removed(running: Relay, sync: Sync) -> None:
    top = running.host.etc / "flatnet"
    other = sync.program()
    done = running.make(state="absent")
    assert running.diff(done, "package")[1] == "none\n"
    assert sync.program() == other
    assert not (top / "sbin/flatnet-relay").exists()
    assert not current(running.host, "relay").parent.exists()
    assert (current(running.host, "sync") / "flatnet/sync/command.py").exists()
    running.run()
    sync.run(state="absent")
    assert running.answers()
    assert not (top / "sbin/flatnet-sync").exists()
    running.make(state="absent")
    assert not top.exists()
    sync.run()


# --- wrong input, and the end ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("name", "a name too long for it", "name: "),
        ("network", "10.5.0.1/16", "network: '10.5.0.1/16' is not a prefix; did you mean"),
        ("network", "fd00::/48", "network: fd00::/48 is not an IPv4 network"),
        ("network", None, "network: is required"),
        ("subnet", "10.6.1.0/24", "subnet: 10.6.1.0/24 is not in the network 10.5.0.0/16"),
        ("subnet", "here", "subnet: 'here' is not a prefix"),
        ("address", "10.5.2.0", "address: 10.5.2.0 is not in the subnet 10.5.1.0/24"),
        ("subnet", None, "subnet: is required"),
        ("listen", None, "listen: is required"),
        ("listen", "10.5.2.1", "listen: 10.5.2.1 is in the overlay's network"),
        (
            "listen",
            "172.21.0.99",
            "listen: 172.21.0.99 is not an address of this host's underlay, which has",
        ),
        ("listen", "eth0", "listen: 'eth0' is not an IP address"),
        ("port", 0, "port: 0 is not from 1 to 65535"),
        ("mtu", 1473, "mtu: 1473 is not possible: packets leave by eth0, whose MTU is 1500"),
        ("mtu", 60, "mtu: 60 is not from 68 to 65507"),
        ("workers", 17, "workers: 17 is not from 0 to 16"),
        ("user", "root", "user: root has all rights"),
        ("user", "a b", "user: 'a b' is not the name of a user"),
        ("table_file", "table", "table_file: 'table' is not an absolute path"),
        ("metrics_file", "prom", "metrics_file: 'prom' is not an absolute path"),
        ("prefix", "usr", "prefix: usr is not an absolute path"),
        ("python", "/no/python", "python: /no/python is not"),
        ("unit", "[Service]", "unit: it has to say User=flatnet-relay"),
        ("from_leases", True, "from_leases: the option table is given too"),
        ("table", [{"subnet": "10.5.1.0/25", "address": "192.0.2.1"}], "table[0].subnet: "),
        ("table", [{"subnet": "10.6.1.0/24", "address": "192.0.2.1"}], "is not in the network"),
        ("table", [{"subnet": "10.5.2.0/24", "address": "10.5.2.1"}], "table[0].address: "),
        (
            "table",
            [{"subnet": "10.5.2.0/24", "address": "172.21.0.11"}],
            "be a peer's address",
        ),
        ("table", [{"subnet": "10.5.2.0/24", "address": "192.0.2.1", "vector": 9}], "vector: 9"),
        ("table", [{"subnet": "10.5.2.0/24", "address": "192.0.2.1"}] * 2, "192.0.2.1 already"),
    ],
)
def test_bad_input_changes_nothing(lab: Lab, option: str, value: t.Any, text: str) -> None:
    relay = Relay(lab, 1)
    before = relay.kernel()
    asked = {**relay.arguments, option: value}
    runs = [{**asked, "_ansible_check_mode": check} for check in (True, False)]
    for result in modules.run_modules(relay.host, "tun_relay", runs):
        assert result["failed"]
        assert text in result["msg"]
    assert relay.files() == {}
    assert relay.kernel() == before


def test_removed_it_leaves_nothing(there: Relay) -> None:
    before = there.kernel()
    there.make(metrics_file="/run/flatnet-relay/relay.prom")
    supervisor, program = there.supervisor, there.program()
    workers = children(program)
    there.make(state="absent")
    assert not any(map(alive, (supervisor, program, *workers)))
    assert there.kernel() == before
    assert there.files() == {}
    assert not (there.host.etc / "flatnet").exists()
    assert not (there.host.run / "flatnet-relay").exists()
    # The modules need it as well.
    left = {path.name for path in (there.host.run / "flatnet").iterdir()}
    assert left == {"lock", "installing"}


# --- as a step of site.yml ------------------------------------------------------------------------


@pytest.mark.parametrize("sync", ["none", "service"])
def test_a_fleet_changes_its_backend_there_and_back(
    lab_factory: t.Callable[..., Lab], ansible: Ansible, sync: str
) -> None:
    lab = lab_factory(hosts=2)
    site = Site(lab, ansible, sync=sync)
    relays = [Relay(lab, number) for number in (1, 2)]

    def change(**variables: t.Any) -> Run:
        """Run, run again; pods reach each other then. A service does some of it by itself once it
        sees the new config: what is left for the run is as checked without one."""
        planned = set()
        if sync == "none":
            planned = site.play("playbooks/site.yml", "--check", **variables).changed()
        done = site.play(**variables)
        assert sync == "service" or done.changed() == planned
        assert site.lost(1450) == []
        assert site.play(**variables).changed() == set()
        return done

    site.play()
    site.add_pods()
    before = [users(relay) for relay in relays]
    assert ("host1", MAKE) in change(flatnet_backend={"type": "udp"}).changed()
    assert [relay.status()["table"]["peers"] for relay in relays] == [1, 1]
    udp = {"flatnet_backend": {"type": "udp"}, "flatnet_relay_workers": 2}
    assert change(**udp).changed() == {("host1", MAKE), ("host2", MAKE)}
    assert [relay.status()["workers"] for relay in relays] == [2, 2]
    assert ("host1", REMOVE) in change(flatnet_backend={"type": "vxlan"}).changed()
    for relay in relays:
        assert relay.host.exec(["ip", "link", "show", "flannel0"]).returncode
        assert relay.ip("route show 10.5.0.0/16") == ""
        assert not [path for path in relay.files() if "relay" in path and "/lib/" not in path]
    assert [users(relay) for relay in relays] == before


def users(relay: Relay) -> str:
    return relay.host.exec(["getent", "passwd"], check=True).stdout
