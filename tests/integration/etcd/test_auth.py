# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The etcd client and authentication: users, permissions, tokens that expire; on a real etcd."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd import client as etcd
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import Op
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.watching import (
    Pulse,
    WatchingClient,
)

from tests.integration.etcd_server import EtcdServers

PASSWORD = "s3cret-of-flatnet"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    """With authentication, and tokens that are good for a second or two."""
    arguments = ["--auth-token-ttl=1"]
    with EtcdServers(tmp_path_factory.mktemp("auth"), arguments=arguments) as servers:
        servers.ctl("user", "add", f"root:{PASSWORD}")
        servers.ctl("user", "grant-role", "root", "root")
        servers.ctl("user", "add", f"flat:{PASSWORD}")
        servers.ctl("role", "add", "flat")
        servers.ctl("role", "grant-permission", "flat", "--prefix=true", "readwrite", "/flat/")
        servers.ctl("user", "grant-role", "flat", "flat")
        with WatchingClient(servers.urls, username="flat", password=PASSWORD) as client:
            assert client.put("/flat/before", b"auth is enabled") > 0
        servers.ctl("auth", "enable")
        yield servers


def test_a_user_does_what_the_role_permits(guarded: EtcdServers) -> None:
    with WatchingClient(guarded.urls, username="flat", password=PASSWORD) as client:
        client.put("/flat/1", b"x")
        assert client.range_prefix("/flat/1").count == 1
        for refused in (
            lambda: client.get("/other"),
            lambda: client.put("/other", b"x"),
            lambda: client.txn([], [Op.put("/flat/1", b"y"), Op.put("/other", b"x")]),
            lambda: client.watch("/other"),
        ):
            with pytest.raises(etcd.EtcdPermissionDenied, match="user 'flat'") as caught:
                refused()
            assert not caught.value.maybe_applied
        assert client.get("/flat/1").kvs[0].value == b"x"


def test_a_token_that_expired_is_fetched_again(guarded: EtcdServers) -> None:
    options = {"username": "flat", "password": PASSWORD}
    with (
        WatchingClient(guarded.urls, **options) as caller,
        WatchingClient(guarded.urls, **options) as watcher,
    ):
        tokens = []
        for client in (caller, watcher):
            client.get("/flat/1")
            tokens.append(client._cluster._token)
        time.sleep(3.5)
        revision = caller.put("/flat/1", b"y")
        with watcher.watch("/flat/", revision) as watch:
            response = watch.read(5)
        assert response is not None
        assert response.events[0].kv.value == b"y"
        assert caller._cluster._token != tokens[0]
        assert watcher._cluster._token != tokens[1]


def answer(pulse: Pulse) -> etcd.Range:
    """Ask, and wait for the answer."""
    pulse.ask()
    while (found := pulse.read()) is None:
        time.sleep(0.01)
    return found


def test_a_pulse_fetches_a_token_again(guarded: EtcdServers) -> None:
    options = {"username": "flat", "password": PASSWORD}
    with (
        WatchingClient(guarded.urls, **options) as client,
        client.pulse(guarded.urls[0], "/flat/config") as pulse,
        client.pulse(guarded.urls[0], "/other/config") as forbidden,
    ):
        revision = client.put("/flat/1", b"y")
        assert answer(pulse).revision == revision
        token = client._cluster._token
        time.sleep(3.5)
        assert answer(pulse).revision == revision
        assert client._cluster._token != token
        for _ in range(2):
            with pytest.raises(etcd.EtcdPermissionDenied, match="user 'flat'"):
                answer(forbidden)
    with (
        WatchingClient(guarded.urls) as nobody,
        nobody.pulse(guarded.urls[0], "/flat/config") as pulse,
        pytest.raises(etcd.EtcdAuthFailed, match="none are given"),
    ):
        answer(pulse)


def test_a_token_that_a_restart_forgot_is_fetched_again(guarded: EtcdServers) -> None:
    with WatchingClient(guarded.urls, username="flat", password=PASSWORD) as client:
        client.put("/flat/1", b"x")
        guarded.members[0].kill()
        guarded.start()
        client.put("/flat/1", b"again")
        assert client.get("/flat/1").kvs[0].value == b"again"


def test_a_wrong_password_or_none_is_told_without_showing_it(guarded: EtcdServers) -> None:
    wrong = "wrong-" + PASSWORD
    for use in (
        lambda client: client.get("/flat/1"),
        lambda client: client.put("/flat/1", b"x"),
        lambda client: client.watch("/flat/"),
    ):
        with (
            WatchingClient(guarded.urls, username="flat", password=wrong) as client,
            pytest.raises(etcd.EtcdAuthFailed, match="password of user 'flat'") as caught,
        ):
            use(client)
        shown = "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
        assert PASSWORD not in shown + str(caught.value) + repr(client) + repr(caught.value)
        with (
            WatchingClient(guarded.urls) as client,
            pytest.raises(etcd.EtcdAuthFailed, match="wants a user and a password"),
        ):
            use(client)


def test_authentication_may_be_enabled_while_a_client_runs(tmp_path: Path) -> None:
    with (
        EtcdServers(tmp_path) as servers,
        WatchingClient(servers.urls, username="root", password=PASSWORD) as client,
    ):
        client.put("/a", b"1")
        servers.ctl("user", "add", f"root:{PASSWORD}")
        servers.ctl("user", "grant-role", "root", "root")
        servers.ctl("auth", "enable")
        client.put("/a", b"2")
        assert client.get("/a").kvs[0].value == b"2"
