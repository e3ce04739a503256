# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flatnet-relay is installed on a host in memory: what it has besides flatnet-sync, which is its
user, its device with a route, and its table.

These stand beside the whole runs, as those of flatnet-sync do: see test_installation.py.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.udp.backend import (
    tun,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install import relay
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.installation import (
    Installation,
    NotReady,
    Program,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.plan import (
    Belongings,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Link,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.netlink import Refusal
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import Change
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay.config import (
    SETTINGS_PATH,
    RelayPeer,
    RelaySettings,
    RelayTable,
    parse_settings,
    parse_table,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay.control import (
    RelayGone,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.install.fake_target import FakeTarget, Killed, mark, run, where
from tests.unit.sync.fake_kernel import FakeKernel

COMMAND = "/usr/local/sbin/flatnet-relay"
SETTINGS = RelaySettings(
    device="flannel0",
    address="10.5.1.0",
    subnet="10.5.1.0/24",
    network="10.5.0.0/16",
    listen="172.21.0.10",
    mtu=1472,
    user="flatnet-relay",
)
TABLE = RelayTable((RelayPeer("10.5.2.0/24", "172.21.0.12", 1),))
LARGER = RelayTable((*TABLE.peers, RelayPeer("10.5.3.0/24", "172.21.0.13", 0)))


class RelayHost(FakeTarget):
    """A host with a kernel, where a relay that runs has the settings and the table of its start, or
    the table that it was told to read. ``deaf``: it does not read one when it is told."""

    def __init__(self, systemd: bool = False) -> None:
        super().__init__(systemd, "relay")
        self.kernel = FakeKernel()
        self.kernel.refuse = self._each_change
        self.at_start = self._start
        self.deaf = False
        self._uses: tuple[int, RelaySettings, RelayTable] | None = None

    def state(self) -> dict[str, Any]:
        return {**super().state(), "kernel": self.kernel.entries}

    def used(self) -> tuple[RelaySettings, RelayTable] | None:
        """What the relay that runs uses."""
        return self._uses[1:] if self._uses and self.services.pids else None

    def ask(self, _control: str, command: str) -> dict[str, Any]:
        if not self._uses or not self.services.pids:
            raise RelayGone("no relay answers")
        pid, settings, table = self._uses
        if command == "reload" and not self.deaf:
            table = parse_table(self.text(settings.table_file))
            self._uses = pid, settings, table
        shown = {"revision": table.revision, "peers": len(table.peers), "digest": table.digest}
        return {"pid": pid, "settings": settings._asdict(), "table": shown, "table_error": ""}

    def boot(self) -> None:
        self.kernel.entries = FakeKernel().entries
        # It waits for its device.
        self.at_start = lambda _pid: None
        super().boot()
        self.at_start = self._start

    def _start(self, pid: int) -> None:
        settings = parse_settings(self.text(SETTINGS_PATH))
        assert self.has_user(settings.user)
        assert self.kernel.link(settings.device)
        self._uses = pid, settings, parse_table(self.text(settings.table_file))

    def _each_change(self, change: Change) -> Refusal | None:
        self.step("kernel: " + str(change))
        return None


def present(
    host: RelayHost,
    settings: RelaySettings = SETTINGS,
    table: RelayTable | None = TABLE,
    restart: bool = False,
) -> Program:
    def made(_before: RelayTable | None) -> RelayTable | None:
        return table

    asked = made if table is not None else None
    request = relay.Request(settings, tun(settings), "[Unit]\n", asked, restart)
    program = relay.Present(host, request, host.kernel, host.ask)
    program.patience = 0.0
    return program


def absent(host: RelayHost) -> Program:
    named = Belongings(
        frozenset({SETTINGS.table_file}), frozenset({SETTINGS.user}), frozenset({SETTINGS.device})
    )
    return relay.Absent(host, named, host.kernel)


@pytest.fixture(params=[False, True], ids=["supervised", "systemd"])
def host(request: pytest.FixtureRequest) -> RelayHost:
    return RelayHost(systemd=request.param)


@pytest.fixture
def running(host: RelayHost) -> RelayHost:
    run(present(host))
    host.done.clear()
    host.services.started.clear()
    return host


def service(host: RelayHost) -> str:
    return relay.UNIT if host.systemd else "flatnet-relay"


def test_where_nothing_is_everything_is_a_step(host: RelayHost) -> None:
    installation = Installation.observe(present(host))
    assert host.done == []
    assert where(installation) == [
        "user flatnet-relay",
        "kernel",
        "package",
        COMMAND,
        SETTINGS_PATH,
        SETTINGS.table_file,
        host.services.path(service(host)),
        service(host),
    ]
    assert installation.restarts


def test_user_device_and_route_are_there_before_it_starts(host: RelayHost) -> None:
    """flatnet-sync goes by the settings, so they are there before the device is."""
    run(present(host))
    order = [
        "write " + mark("relay"),
        "make user flatnet-relay",
        "write " + SETTINGS_PATH,
        next(each for each in host.done if each.startswith("kernel: add link flannel0")),
        next(each for each in host.done if each.startswith("kernel: add route 10.5.0.0/16")),
        "start " + service(host),
        "remove " + mark("relay"),
    ]
    assert sorted(order, key=host.done.index) == order
    assert host.used() == (SETTINGS, TABLE)


def test_where_everything_is_there_is_no_step(running: RelayHost) -> None:
    assert run(present(running)).steps == ()
    assert running.done == []


def test_another_table_is_used_without_a_restart(running: RelayHost) -> None:
    changed = run(present(running, table=LARGER))
    assert where(changed) == [SETTINGS.table_file]
    assert not changed.restarts
    assert running.services.started == []
    assert running.used() == (SETTINGS, LARGER)


def test_one_that_does_not_use_another_table_is_an_error(running: RelayHost) -> None:
    running.deaf = True
    with pytest.raises(NotReady, match="it still uses a table of revision 0 with 1 peers"):
        run(present(running, table=LARGER))


def test_a_table_of_others_stays(running: RelayHost) -> None:
    running.put(SETTINGS.table_file, LARGER.to_json())
    changed = run(present(running, table=None))
    assert where(changed) == ["relay"], "it was not told"
    assert running.used() == (SETTINGS, LARGER)
    assert run(present(running, table=None)).steps == ()


def test_other_settings_start_it_anew_on_the_same_device(running: RelayHost) -> None:
    device = running.kernel.link("flannel0")
    changed = run(present(running, SETTINGS._replace(workers=2)))
    assert where(changed) == [SETTINGS_PATH, service(running)]
    assert running.kernel.link("flannel0") is device
    assert running.used() == (SETTINGS._replace(workers=2), TABLE)


def test_settings_that_others_write_during_the_run_stay(
    host: RelayHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flatnet-sync writes them too, under the host's lock, and so does a task that is faster. Who
    is slow must not put its own back after that."""
    newer = SETTINGS._replace(mtu=1400)

    def install() -> None:
        RelayHost.install_package(host)
        host.put(SETTINGS_PATH, newer.to_json())

    monkeypatch.setattr(host, "install_package", install)
    with pytest.raises(NotReady, match="it still uses other settings"):
        run(present(host))
    assert host.done.count("write " + SETTINGS_PATH) == 1
    assert parse_settings(host.text(SETTINGS_PATH)) == newer
    # It was told so, and the next run has its turn.
    run(present(host))
    assert host.used() == (SETTINGS, TABLE)


def test_a_route_that_is_missing_is_no_reason_for_a_restart(running: RelayHost) -> None:
    running.kernel.drop(*(each for each in running.kernel.of(Route) if each.dev == "flannel0"))
    changed = run(present(running))
    assert where(changed) == ["kernel"]
    assert not changed.restarts


def test_a_device_that_is_missing_is(running: RelayHost) -> None:
    """A relay that runs has the queues of the device that was."""
    running.kernel.drop(*running.kernel.entries_on("flannel0"))
    running.kernel.drop(*(each for each in running.kernel.of(Link) if each.name == "flannel0"))
    changed = run(present(running))
    assert where(changed) == ["kernel", service(running)]
    assert changed.restarts


def test_it_is_started_anew_on_request(running: RelayHost) -> None:
    assert where(run(present(running, restart=True))) == [service(running)]
    assert running.services.started == [service(running)]


def test_one_that_has_ended_is_started(running: RelayHost) -> None:
    running.kill(service(running))
    assert where(run(present(running))) == [service(running)]
    assert running.used() == (SETTINGS, TABLE)


def test_removed_it_leaves_nothing(running: RelayHost) -> None:
    gone = run(absent(running))
    assert {"kernel", "user flatnet-relay", "package", service(running)} <= set(where(gone))
    assert running.state() == RelayHost(running.systemd).state()
    assert run(absent(running)).steps == ()


def test_a_user_of_others_stays(host: RelayHost) -> None:
    host.users["flatnet-relay"] = False
    assert "user flatnet-relay" not in where(run(present(host)))
    assert "user flatnet-relay" not in where(run(absent(host)))
    assert host.users == {"flatnet-relay": False}


#: What a task may ask for: None is to remove it.
ASKED = st.sampled_from(
    [
        None,
        (SETTINGS, TABLE),
        (SETTINGS, LARGER),
        (SETTINGS._replace(device="tunnel0", workers=2), TABLE),
        (SETTINGS._replace(user="carrier"), TABLE),
        (SETTINGS._replace(table_file="/var/lib/other.json"), TABLE),
        (SETTINGS._replace(network="10.6.0.0/16", address="10.6.1.0"), RelayTable()),
    ]
)
Asked = tuple[RelaySettings, RelayTable]


def asked(host: RelayHost, what: Asked | None) -> Program:
    return present(host, *what) if what else absent(host)


@given(
    systemd=st.booleans(),
    before=st.lists(ASKED, max_size=2),
    cut=st.lists(st.tuples(ASKED, st.integers(0, 16), st.booleans()), max_size=3),
    last=ASKED,
)
def test_interrupted_and_run_again_it_ends_in_the_same_state(
    systemd: bool,
    before: list[Asked | None],
    cut: list[tuple[Asked | None, int, bool]],
    last: Asked | None,
) -> None:
    """Some runs come to their end, some are killed after any of their steps, some with the whole
    host, which loses its power; and the last one comes to its end. Then the host has what it would
    have had if nothing else had ever been run, and the relay uses it."""
    tried, fresh = RelayHost(systemd), RelayHost(systemd)
    for what in before:
        run(asked(tried, what))
    for what, steps, boots in cut:
        tried.steps_left = steps
        with contextlib.suppress(Killed):
            run(asked(tried, what))
        tried.steps_left = None
        if boots:
            tried.boot()
    run(asked(tried, last))
    run(asked(fresh, last))
    assert tried.state() == fresh.state()
    assert tried.used() == last
    assert run(asked(tried, last)).steps == ()


@pytest.mark.parametrize(
    "last", [None, (SETTINGS._replace(device="tunnel0", user="other"), LARGER)]
)
@pytest.mark.parametrize("first", [None, (SETTINGS, TABLE)])
@pytest.mark.parametrize("boots", [False, True], ids=["killed", "booted"])
def test_each_step_interrupted(
    host: RelayHost, first: Asked | None, last: Asked | None, boots: bool
) -> None:
    """The same for each single step of one change, so that none is left to chance."""
    number = 0
    while True:
        tried, fresh = RelayHost(host.systemd), RelayHost(host.systemd)
        run(asked(tried, first))
        tried.steps_left = number
        try:
            run(asked(tried, last))
            break
        except Killed:
            tried.steps_left = None
        if boots:
            tried.boot()
        run(asked(tried, last))
        run(asked(fresh, last))
        assert tried.state() == fresh.state(), "killed after %d steps: %s" % (number, tried.done)
        assert tried.used() == last
        number += 1
    assert number > 5 or first == last
