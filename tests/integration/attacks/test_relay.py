# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on a relay by local users: those without rights, and the relay's own user."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import stat
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay.config import (
    RelayTable,
)

from tests.lab import Lab
from tests.lab.system import netns_pids
from tests.lab.waiting import wait
from tests.relay.hosts import PORT, PYTHON, USER, Fleet, RelayHost, Running, overwrite

SOMEBODY = 54321
LONG = 60
# Longer than any load below lasts; whoever attacks is ended before.
BOUND = 120

_PREPARED = """
import contextlib, fcntl, os, select, socket, sys, time
end = time.monotonic() + %d
def connect():
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(30)
    made.connect("/run/relay/control")
    return made
def going():
    return time.monotonic() < end
print("begun", flush=True)
"""

#: What somebody does to the socket that everybody may use, again and again.
FLOODS = {
    "nested": """
while going():
    with contextlib.suppress(OSError), connect() as c:
        c.sendall(b"[" * 4000)
        c.recv(100)
""",
    "nested and whole": """
while going():
    with contextlib.suppress(OSError), connect() as c:
        c.sendall(b"[" * 4000 + b"]" * 4000 + b"\\n")
        c.recv(100)
""",
    "silent": """
held = []
while going():
    with contextlib.suppress(OSError):
        held.append(connect())
    if len(held) > 900:
        held.pop(0).close()
""",
    "half a request": """
held = []
while going():
    with contextlib.suppress(OSError):
        held.append(connect())
        held[-1].sendall(b"stat")
    if len(held) > 900:
        held.pop(0).close()
""",
    "a byte a second": """
held = [connect() for dummy in range(40)]
while going():
    for at, each in enumerate(held):
        try:
            each.send(b"s")
        except OSError:
            each.close()
            with contextlib.suppress(OSError):
                held[at] = connect()
    time.sleep(1)
""",
    "never reads": """
held = []
while going():
    with contextlib.suppress(OSError):
        held.append(connect())
        held[-1].sendall(b"status\\n")
    if len(held) > 900:
        held.pop(0).close()
""",
    "every place": """
os.fork()
while going():
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as c:
        c.setblocking(False)
        while c.connect_ex("/run/relay/control"):
            if not going():
                break
""",
    "asks and goes": """
while going():
    with contextlib.suppress(OSError), connect() as c:
        c.sendall(b"status\\n")
""",
    "asks all the time": """
if any(os.fork() == 0 for dummy in range(50)):
    while going():
        with contextlib.suppress(OSError), connect() as c:
            c.sendall(b"status\\n")
            while c.recv(65536):
                pass
    os._exit(0)
while going():
    time.sleep(0.1)
""",
}


@pytest.fixture(scope="module")
def fleet(lab_factory: t.Callable[..., Lab]) -> t.Iterator[Fleet]:
    with Fleet(lab_factory(hosts=2, etcd=0)) as made:
        yield made


@pytest.fixture(scope="module")
def _pair(fleet: Fleet) -> RelayHost:
    fleet.carry("vector", "vector")
    return fleet.hosts[0]


@pytest.fixture
def host(_pair: RelayHost) -> t.Iterator[RelayHost]:
    """One of two relays, which carries before and after."""
    assert all(_pair.fleet.lab.ping_matrix().values())
    yield _pair
    assert all(_pair.fleet.lab.ping_matrix().values())


def _as(user: int | str, code: str) -> list[str]:
    who = ["--reuid=%s" % user, "--regid=%s" % SOMEBODY, "--clear-groups"]
    return ["setpriv", *who, PYTHON, "-c", _PREPARED % BOUND + code]


@contextlib.contextmanager
def _attack(host: RelayHost, code: str, user: int | str = SOMEBODY) -> t.Iterator[Running]:
    """Somebody on the host, with all that is started, from when it has begun."""
    before = set(netns_pids([host.host.netns]))
    running = Running(host.host, _as(user, code))
    try:
        wait(lambda: "begun" in running.said(), "the attack")
        yield running
    finally:
        for pid in set(netns_pids([host.host.netns])) - before:
            if _user(pid) in (SOMEBODY, _number(user)) and _is_attack(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        running.process.kill()
        running.process.wait()


def _number(user: int | str) -> int:
    return user if isinstance(user, int) else pwd.getpwnam(user).pw_uid


def _user(pid: int) -> int:
    with contextlib.suppress(OSError):
        return Path("/proc/%d" % pid).stat().st_uid
    return -1


def _is_attack(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"going()" in Path("/proc/%d/cmdline" % pid).read_bytes()
    return False


def _command(host: RelayHost, user: int, *words: str) -> tuple[int, str]:
    who = ["setpriv", "--reuid=%d" % user, "--regid=%d" % user, "--clear-groups"]
    env = {**os.environ, **host.fleet.environment}
    done = host.host.exec([*who, *host.relay_command(*words)], env=env, timeout=LONG)
    return done.returncode, done.stdout + done.stderr


# --- who may talk to it ---------------------------------------------------------------------------


@pytest.mark.parametrize("what", FLOODS)
def test_no_client_ends_or_holds_up_the_relay(host: RelayHost, what: str) -> None:
    """A local user without rights floods the socket that all may use (no client's request may end,
    stall or starve it). Packets arrive, and root is answered and heard, all the while."""
    pid = host.ask("status")["pid"]
    other = host.fleet.hosts[1].pod
    with _attack(host, FLOODS[what]) as attack:
        for revision in range(1, 6):
            host.write_table(host.fleet.peers(host, ["vector", "vector"]), revision)
            assert _command(host, 0, "reload") == (0, "1 peers, revision %d\n" % revision)
            words = ["ping", "-n", "-i", "0.05", "-c", "20", "-W", str(LONG), other.address]
            done = host.pod.exec(words, timeout=BOUND)
            assert " 20 received" in done.stdout, done.stdout
            code, said = _command(host, 0, "status", "--json")
            assert code == 0, said
            assert json.loads(said)["table"]["revision"] == revision
        assert attack.alive, attack.said()
    assert json.loads(_command(host, 0, "status", "--json")[1])["pid"] == pid, host.said()
    assert "Traceback" not in host.said()


def test_whoever_is_on_the_host_may_ask_and_no_more(host: RelayHost) -> None:
    """A local user without rights sees the status, and cannot have the relay do anything."""
    # What everybody gets told is a second old at most.
    wait(lambda: host.fleet.hosts[1].address in _command(host, SOMEBODY, "status")[1], "the status")
    peers = host.fleet.peers(host, ["vector", "vector"])
    host.reload(peers, 1)
    # The relay looks at its file by itself, whoever asks: there must be nothing to see.
    table = host.files / "table.json"
    overwrite(table, RelayTable(tuple(peers), 2), host.ask("status")["pid"])
    code, said = _command(host, SOMEBODY, "reload")
    assert code == 1
    assert "only root may" in said
    assert host.ask("status")["table"]["revision"] == 1
    # A reload would have had the other table used.
    assert _command(host, 0, "reload") == (0, "1 peers, revision 2\n")
    # Nor is there another way in.
    private = Path(host.control).parent / "private"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert {private.stat().st_uid, (private / "control").stat().st_uid} == {0}
    enter = "socket.socket(socket.AF_UNIX).connect('/run/relay/private/control')"
    done = host.host.exec(_as(SOMEBODY, enter), timeout=LONG)
    assert "PermissionError" in done.stderr


def test_flatnet_sync_reaches_a_relay_that_was_never_root(host: RelayHost) -> None:
    """With systemd the relay is its own user from the start, and flatnet-sync is root with two of
    root's rights. It has the relay reload, by the way in where no local user is in its way."""
    host.stop()
    folder = host.host.run / "relay-of-its-user"
    folder.mkdir()
    os.chown(folder, _number(USER), -1)
    host.configure(control="/run/relay-of-its-user/control")
    host.control = str(folder / "control")
    # Not every machine that runs tests lets everybody open /dev/net/tun, as hosts do.
    rights = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    user = ["setpriv", "--reuid=" + USER, "--clear-groups", *rights]
    sync = ["setpriv", "--bounding-set=-all,+net_admin,+dac_read_search", "--no-new-privs"]
    begun = Running(host.host, [*user, *host.relay_command("run")], host.fleet.environment)
    try:
        wait(lambda: _pid(host) or not begun.alive, "the relay")
        assert begun.alive, begun.said()
        with _attack(host, FLOODS["silent"].replace("/run/relay/", "/run/relay-of-its-user/")):
            host.write_table(host.fleet.peers(host, ["vector", "vector"]), 7)
            env = {**os.environ, **host.fleet.environment}
            command = [*sync, *host.relay_command("reload")]
            done = host.host.exec(command, env=env, timeout=LONG)
            assert done.stdout == "1 peers, revision 7\n", done.stderr
    finally:
        begun.stop()
        host.control = str(host.files / "control")
        host.configure(vector=True)
        host.run_relay()
        shutil.rmtree(folder)


def test_a_signal_to_all_its_processes_is_a_stop(host: RelayHost) -> None:
    """Systemd tells all processes of the service to end, and a worker may hear it first: that is no
    failure, in its status or in the journal."""
    main = host.ask("status")["pid"]
    with open("/proc/%d/task/%d/children" % (main, main)) as file:
        workers = [int(each) for each in file.read().split()]
    assert workers
    carrier, host.carrier = host.carrier, None
    assert carrier
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    assert host.ask("status")["pid"] == main
    assert carrier.stop() == 0
    assert "ended" not in carrier.said()
    for pid in workers:
        assert not Path("/proc/%d" % pid).exists()
    host.run_relay()


@pytest.mark.parametrize("what", ["silent", "never reads", "every place", "asks all the time"])
def test_one_user_does_not_keep_the_others_out(host: RelayHost, what: str) -> None:
    """A local user floods the socket that all may use; another one is answered all the same."""
    with _attack(host, FLOODS[what]) as attack:
        for dummy in range(3):
            wait(lambda: _command(host, SOMEBODY + 1, "status")[0] == 0, "an answer")
        assert attack.alive, attack.said()


def test_a_stopped_worker_does_not_stop_the_main_process(host: RelayHost) -> None:
    """While a worker does not answer, who asks is still heard, and the relay ends by itself: what a
    local user asks is never what it waits for."""
    host.stop()
    host.supervise()
    status = host.ask("status")
    worker = max(pid for pid in netns_pids([host.host.netns]) if _user(pid) == _number(USER))
    os.kill(worker, signal.SIGSTOP)
    with _attack(host, FLOODS["asks and goes"]):
        wait(lambda: _pid(host) not in (0, status["pid"]), "another relay")
    assert not Path("/proc/%d" % worker).exists()
    host.unsupervise()


def _pid(host: RelayHost) -> int:
    with contextlib.suppress(OSError):
        return int(host.ask("status", 5)["pid"])
    return 0


# --- the port -------------------------------------------------------------------------------------

#: Tries to get the port by all means, and says so when it has it.
_SQUAT = """
tries = 0
while going():
    for address in (sys_address, "0.0.0.0"):
        for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            if option:
                s.setsockopt(socket.SOL_SOCKET, option, 1)
            try:
                s.bind((address, sys_port))
            except OSError:
                s.close()
            else:
                print("bound", flush=True)
                time.sleep(1)
                s.close()
    tries += 1
    if tries == 100:
        print("tried", flush=True)
"""


def _squat(host: RelayHost, port: int = PORT) -> str:
    return "sys_address, sys_port = %r, %d\n" % (host.address, port) + _SQUAT


def test_the_port_is_never_free(host: RelayHost) -> None:
    """A local user tries to bind the relay's port in a tight loop, while the relay is killed, ended
    by its settings, and started anew with another number of workers. He gets it when the service
    was stopped, and not before."""
    host.stop()
    host.supervise()
    supervisor = _supervisor(host)
    with _attack(host, _squat(host)) as attack:
        wait(lambda: "tried" in attack.said(), "the attack")
        for workers in (0, 1, 3, 2, 2, 1):
            pid = host.ask("status")["pid"]
            if workers:
                host.configure(workers=workers)
                os.kill(supervisor, signal.SIGHUP)
            else:
                os.kill(pid, signal.SIGKILL)
            wait(lambda pid=pid: _pid(host) not in (0, pid), "another relay")
            assert not workers or host.ask("status")["workers"] == workers
            wait(lambda: all(host.fleet.lab.ping_matrix().values()), "pods")
            assert "bound" not in attack.said()
        # So was every process of it at once.
        for pid in netns_pids([host.host.netns]):
            if _user(pid) == _number(USER):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        wait(lambda: _pid(host), "another relay")
        assert "bound" not in attack.said()
        assert _supervisor(host) == supervisor
        os.kill(supervisor, signal.SIGTERM)
        wait(lambda: "bound" in attack.said(), "the port of a service that was stopped")
    host.carrier = None
    host.configure(vector=True)
    host.run_relay()


def test_another_port_and_back(host: RelayHost) -> None:
    """What is kept open is what the settings say, and no more."""
    host.stop()
    host.supervise()
    supervisor = _supervisor(host)
    for port in (PORT + 1, PORT):
        pid = host.ask("status")["pid"]
        host.configure(port=port)
        os.kill(supervisor, signal.SIGHUP)
        wait(lambda pid=pid: _pid(host) not in (0, pid), "another relay")
        listening = host.host.exec(["ss", "-Hlun"], check=True).stdout
        assert set(re.findall(r":(\d+) ", listening)) >= {str(port)}
        assert ":%d " % (PORT + PORT + 1 - port) not in listening
    host.unsupervise()


def test_a_port_that_somebody_has(host: RelayHost) -> None:
    """A user of the host has the port before the relay: it says how to find him, at a pace, and has
    the port once he is gone."""
    host.stop()
    with _attack(host, _squat(host).replace("time.sleep(1)", "time.sleep(600)")) as attack:
        wait(lambda: "bound" in attack.said(), "the attack")
        begun = Running(host.host, host.relay_command("run"), host.fleet.environment)
        wait(begun.said, "a word of the relay")
        assert "Address already in use; 'ss -ulnp sport = :%d'" % PORT in begun.said()
        # It goes on for a while, or whoever keeps it starts it again.
        assert begun.said().count("already in use") == 1
    wait(lambda: not begun.alive or _pid(host), "the relay, or its end")
    if begun.alive:
        begun.stop()
    host.run_relay()


def test_a_full_disk_ends_no_relay(host: RelayHost) -> None:
    """Bad luck: there is no room for what it logs. It carries packets all the same."""
    host.stop()
    words = ["sh", "-c", 'exec "$@" 2>/dev/full', "sh", *host.relay_command("run")]
    begun = Running(host.host, words, host.fleet.environment)
    try:
        wait(lambda: _pid(host) or not begun.alive, "the relay")
        host.reload([], 1)
        assert host.reload(host.fleet.peers(host, ["vector", "vector"]), 2)["peers"] == 1
        wait(lambda: all(host.fleet.lab.ping_matrix().values()), "pods")
        assert begun.stop() == 0
    finally:
        begun.process.kill()
        host.run_relay()


# --- files and processes of root ------------------------------------------------------------------


def _supervisor(host: RelayHost) -> int:
    return int((host.files / "relay.pid").read_text().split()[0])


_LINKS = """
import itertools
for number in itertools.count():
    with contextlib.suppress(OSError):
        os.unlink("/run/relay/control")
    with contextlib.suppress(OSError):
        os.symlink("/run/victim", "/run/relay/control")
    with contextlib.suppress(OSError):
        os.rename("/run/relay/private", "/run/relay/private.%d" % number)
    with contextlib.suppress(OSError):
        os.symlink("/run/secret", "/run/relay/private")
    if not going():
        break
"""


def test_links_in_its_folder_give_nothing_away(host: RelayHost) -> None:
    """The relay's own user, whom an earlier version left the control socket's folder, puts links to
    root's files there as fast as he can, while root starts the relay."""
    victim, secret = host.host.run / "victim", host.host.run / "secret"
    victim.write_text("root's")
    victim.chmod(0o600)
    secret.mkdir(mode=0o700)
    host.stop()
    for dummy in range(8):
        os.chown(host.files, _number(USER), -1)
        with _attack(host, _LINKS, USER):
            begun = Running(host.host, host.relay_command("run"), host.fleet.environment)
            wait(lambda: not begun.alive or _pid(host), "the relay")  # noqa: B023
            if begun.alive:
                begun.stop()
        for path, mode in ((victim, 0o600), (secret, 0o700)):
            found = path.stat()
            assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, mode)
        assert not list(secret.iterdir())
        assert host.files.stat().st_uid == 0
    host.run_relay()
    for each in host.files.glob("private.*"):
        each.unlink() if each.is_symlink() else shutil.rmtree(each)
    secret.rmdir()
    victim.unlink()


_LOCKS = """
held = []
for folder, dummy, names in os.walk("/run"):
    for name in names:
        with contextlib.suppress(OSError):
            held.append(os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NONBLOCK))
            fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
print("locked", flush=True)
while going():
    time.sleep(1)
"""


def test_locks_of_others_stop_nothing(host: RelayHost) -> None:
    """A local user locks whatever he can read below /run, before a supervisor is there, while it
    runs, and after it was killed."""
    host.stop()
    (host.files / "relay.pid").unlink(missing_ok=True)
    (host.files / "relay.pid").write_text("1\n")  # as an earlier version left it, for all to read
    with _attack(host, _LOCKS) as attack:
        wait(lambda: "locked" in attack.said(), "the attack")
        host.supervise()
        with _attack(host, _LOCKS) as other:
            wait(lambda: "locked" in other.said(), "the locks")
            os.kill(_supervisor(host), signal.SIGKILL)
            wait(lambda: not _pid(host), "the relay's end")
            with _attack(host, _LOCKS) as third:
                wait(lambda: "locked" in third.said(), "the locks")
                host.supervise()
                assert host.ask("status")
    host.unsupervise()
