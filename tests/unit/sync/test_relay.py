# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with a relay, and another config of the network. Leases of udp and of alloc look the same,
so only the relay itself can tell whether the playbook has brought the host over. See fakes.py."""

from __future__ import annotations

import contextlib
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Link,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay.config import (
    RelaySettings,
    load_settings,
    load_table,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync import upkeep

from tests.unit.sync.fake_kernel import ADDRESS
from tests.unit.sync.fakes import HOST_GW, VXLAN, World, lease, world
from tests.unit.sync.fakes import OWN as OWN_VXLAN

UDP = VXLAN.replace("vxlan", "udp")
OTHER_PORT = UDP.replace('"udp"', '"udp","Port":9999')
ALLOC = VXLAN.replace("vxlan", "alloc")
NETWORK = Route("10.5.0.0/16", "flannel0")
OWN = OWN_VXLAN._replace(backend_type="", data=None)
LEFT = "the former backend's relay is still on this host"


class RelayHost(World):
    """A host in a network without data in leases, as tun_relay left it."""

    def __init__(self, folder: Path, made: World) -> None:
        self.__dict__ = made.__dict__
        self._folder = folder
        self.settings_file = folder / "relay.json"

    def install(self) -> None:
        """As tun_relay does."""
        found = RelaySettings(
            "flannel0",
            "10.5.200.0",
            OWN.subnet,
            "10.5.0.0/16",
            ADDRESS,
            1472,
            user="nobody",
            table_file=str(self._folder / "table"),
            control=str(self._folder / "control"),
        )
        self.settings_file.write_text(found.to_json())

    def remove(self) -> None:
        """As tun_relay does, under the host's lock: the settings, then the device."""
        self.settings_file.unlink()
        self.kernel.drop(*self.kernel.entries_on("flannel0"))
        self.kernel.drop(*(each for each in self.kernel.of(Link) if each.name == "flannel0"))

    def relayed(self) -> set[str]:
        """The subnets in the relay's table."""
        return {each.subnet for each in load_table(str(self._folder / "table")).peers}

    def routed(self) -> bool:
        """Whether the relay gets packets."""
        return NETWORK in self.kernel.of(Route)


def peer(number: int, **changes: t.Any) -> t.Any:
    return lease(number, backend_type="", data=None, **changes)


@pytest.fixture(params=[UDP])
def begun(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RelayHost]:
    """A host among two peers, before its first listing, with a relay if the network has udp."""
    with world(tmp_path, request.param, own=False) as made:
        made.etcd.put_lease(OWN, peer(1), peer(2))
        host = RelayHost(tmp_path, made)
        if request.param == UDP:
            host.install()
        yield host


@pytest.fixture
def host(begun: RelayHost) -> RelayHost:
    """The same after its first listing, saved."""
    begun.list()
    begun.agent.save()
    begun.log.clear()
    return begun


def test_alloc_alone_takes_no_route_away(host: RelayHost) -> None:
    assert host.routed()
    host.etcd.put_config(ALLOC)
    assert not host.follow()
    host.list()
    host.agent.check("drift")
    assert host.routed()
    assert LEFT in host.error("config")
    assert "the former config of the network, 10.5.0.0/16 over udp" in host.error("config")
    assert "run the playbook on this host" in host.error("config")
    # It goes on with its work.
    host.etcd.put_lease(peer(3))
    assert host.follow()
    assert host.relayed() == {"10.5.1.0/24", "10.5.2.0/24", "10.5.3.0/24"}
    host.kernel.drop(NETWORK)
    host.agent.check("drift")
    assert host.routed()
    # So does another process, and one after a boot.
    host.agent.save()
    for begin in (host.start, host.boot):
        begin().recall()
        host.list()
        assert host.routed()
        assert LEFT in host.error("config")
    # Taken back, it is as if it had never been.
    host.etcd.put_config(UDP)
    host.list()
    assert host.error("config") == ""
    assert host.routed()


def test_without_a_word_that_can_be_read_a_relay_is_still_one(host: RelayHost) -> None:
    host.etcd.put_config(ALLOC)
    host.settings_file.write_text("{")
    host.list()
    assert LEFT in host.error("config")
    assert host.routed()
    assert load_settings(str(host.settings_file)).subnet == OWN.subnet, "known from before"


def test_the_host_goes_over_to_alloc_once_the_playbook_has_removed_the_relay(
    host: RelayHost,
) -> None:
    host.etcd.put_config(ALLOC)
    host.list()
    assert host.error("config")
    host.remove()
    host.agent.check("drift")
    assert host.error("config") == ""
    assert host.error("relay") == ""
    assert host.logged("goes over to the network 10.5.0.0/16 over alloc")
    assert not host.routed()
    assert host.kernel.link("flannel0") is None
    assert not host.settings_file.exists()


@pytest.mark.parametrize("backend", [ALLOC, HOST_GW], ids=["alloc", "host-gw"])
def test_a_relay_that_is_removed_during_a_check_stays_removed(
    host: RelayHost, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check has seen the relay, and then waits for the lock, which the playbook's task has."""
    host.etcd.put_config(backend)
    host.list()

    @contextlib.contextmanager
    def locked() -> Iterator[None]:
        monkeypatch.setattr(upkeep, "locked", contextlib.nullcontext)
        host.remove()
        yield

    monkeypatch.setattr(upkeep, "locked", locked)
    host.agent.check("drift")
    assert not host.settings_file.exists()
    assert host.kernel.link("flannel0") is None
    if backend == HOST_GW:
        host.etcd.put_lease(OWN._replace(backend_type="host-gw"))
        assert not host.follow()
        host.list()
    host.agent.check("drift")
    assert host.error("config") == ""
    assert host.error("relay") == ""
    assert not host.settings_file.exists()


@pytest.mark.parametrize(
    ("backend", "own", "reason"),
    [
        (VXLAN, OWN_VXLAN, "lease is for the backend udp or alloc, the network's is vxlan"),
        (HOST_GW, OWN._replace(backend_type="host-gw"), "the network's is host-gw"),
    ],
    ids=["vxlan", "host-gw"],
)
def test_what_a_lease_tells_apart_waits_for_the_lease(
    host: RelayHost, backend: str, own: t.Any, reason: str
) -> None:
    """The playbook writes the lease first, and removes the relay a few steps later."""
    host.etcd.put_config(backend)
    host.list()
    assert reason in host.error("config")
    assert host.routed()
    host.etcd.put_lease(own)
    assert not host.follow(), "perhaps the playbook has moved it"
    host.list()
    assert host.error("config") == ""
    assert not host.routed()


@pytest.mark.parametrize("begun", [ALLOC], indirect=True)
def test_the_host_goes_over_to_udp_once_the_playbook_has_made_the_relay(host: RelayHost) -> None:
    host.etcd.put_config(UDP)
    host.list()
    assert "relay.json cannot be read" in host.error("config")
    assert not host.routed()
    # The playbook writes the lease first.
    own = OWN._replace(vector=1)
    host.etcd.put_lease(own)
    assert not host.follow()
    host.list()
    assert host.error("config")
    assert host.etcd.lease_of(200) == own.to_json()
    host.install()
    host.agent.check("drift")
    assert host.error("config") == ""
    assert host.routed()
    assert host.relayed() == {"10.5.1.0/24", "10.5.2.0/24"}
    host.list()
    assert host.etcd.lease_of(200) == own.to_json()


def test_another_port_is_followed_at_once(host: RelayHost) -> None:
    """As docs/security.md says: it fits every lease."""
    host.etcd.put_config(OTHER_PORT)
    host.list()
    assert host.error("config") == ""
    assert load_settings(str(host.settings_file)).port == 9999
    assert host.routed()
