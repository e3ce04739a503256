# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles in plays of a user's own: nothing of them is in our playbooks."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from tests.integration.playbooks import PREFIX, SUBNETS, Ansible, Run, Site
from tests.lab import Lab

STEPS = "network prepare lease bridge backend peers sync verify".split()

Own = t.Callable[..., Run]


@pytest.fixture(scope="module")
def site(lab_factory: t.Callable[..., Lab], ansible: Ansible) -> Site:
    return Site(lab_factory(hosts=2), ansible)


@pytest.fixture
def own(site: Site, tmp_path: Path) -> Own:
    """Run these roles in a play of their own."""

    def run(*roles: str, code: int = 0, serial: str = "100%", **variables: t.Any) -> Run:
        names = [f"flatnet.overlay.{role}" for role in roles]
        file = tmp_path / "own.json"
        play = {"hosts": "flatnet", "gather_facts": False, "serial": serial, "roles": names}
        file.write_text(json.dumps([play]))
        return site.play(str(file), code=code, **variables)

    return run


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("role", "first"),
    [
        ("prepare", "network"),
        ("bridge", "lease"),
        ("backend", "lease"),
    ],
)
def test_a_role_without_those_before_it_says_which(
    site: Site, own: Own, role: str, first: str
) -> None:
    kernel = site.kernel()
    run = own(role, code=2)
    for message in run.failures().values():
        assert f"the role flatnet.overlay.{first} has to come before this one" in message
        assert "Traceback" not in message
    assert set(run.failures()) == {"host1", "host2"}
    assert run.changed() == set()
    assert site.kernel() == kernel
    assert site.lab.etcd.get_prefix("/") == {}


@pytest.mark.parametrize("role", ["lease", "peers", "verify"])
def test_a_role_that_finds_no_network_says_so(own: Own, role: str) -> None:
    messages = own(role, code=2).failures().values()
    assert messages
    for message in messages:
        assert "no network config" in message
        # The etcd that the variables name, not the modules' default.
        assert "127.0.0.1" not in message


def test_a_role_checks_all_variables_as_the_playbooks_do(site: Site, own: Own) -> None:
    run = own("network", code=2, flatnet_synk="none")
    assert "did you mean flatnet_sync?" in " ".join(run.output.split())
    assert site.lab.etcd.get_prefix("/") == {}


@pytest.mark.matrix
def test_the_network_is_written_to_the_etcd_that_the_variables_name(site: Site, own: Own) -> None:
    run = own("network", flatnet_etcd_prefix="/elsewhere")
    assert {task.rpartition(" : ")[2] for _host, task in run.changed()} == {
        "Write the network's config to etcd"
    }
    # Once for the fleet, although the play is of all hosts.
    assert len(run.changed()) == 1
    assert list(site.lab.etcd.get_prefix("/")) == ["/elsewhere/config"]
    site.lab.etcd.delete("/elsewhere", prefix=True)


@pytest.mark.matrix
def test_all_roles_in_a_play_of_ones_own_build_the_overlay(site: Site, own: Own) -> None:
    own(*STEPS)
    site.add_pods()
    assert site.lost() == []
    kernel = site.kernel()
    again = own(*STEPS)
    assert again.changed() == set()
    assert site.kernel() == kernel
    tasks = [(each["host"], each["task"].rpartition(" : ")[2]) for each in again.records]
    for host in site.hosts:
        assert tasks.count((host.name, "See what the host has")) == 1
    # Once for all roles that do something, and once by the role that also works without them.
    assert [task for _host, task in tasks].count("Check the variables of all hosts") == 2


@pytest.mark.matrix
def test_host_after_host_in_a_play_of_ones_own(own: Own) -> None:
    """Each is done to its end, verification too, before the next one is begun."""
    run = own(*STEPS, serial="1")
    assert run.changed() == set()
    pinged = [each["host"] for each in run.records if each["task"].endswith("Ping every peer")]
    assert pinged == ["host1", "host2"]


@pytest.mark.parametrize("role", ["network", "lease", "peers", "verify"])
def test_a_role_that_needs_nothing_of_the_same_play_works_alone(own: Own, role: str) -> None:
    assert own(role).changed() == set()


def test_a_host_keeps_its_own_options_in_a_play_of_ones_own(site: Site, own: Own) -> None:
    subnets = {address: lease["subnet"] for address, lease in site.leases().items()}
    run = own("lease", flatnet_hostname="{{ inventory_hostname }}-renamed")
    assert len(run.changed()) == len(site.hosts)
    leases = site.leases()
    assert {address: lease["subnet"] for address, lease in leases.items()} == subnets
    names = [lease["Flatnet"]["Hostname"] for lease in leases.values()]
    assert sorted(names) == ["host1-renamed", "host2-renamed"]
    assert site.lab.etcd.get(f"{PREFIX}/config")
    assert len(site.lab.etcd.get_prefix(SUBNETS)) == len(site.hosts)


@pytest.mark.matrix
def test_what_a_role_refuses_names_the_variable(site: Site, own: Own) -> None:
    run = own("network", code=2, flatnet_network="10.6.0.0/16")
    (message,) = set(run.failures().values())
    assert "flatnet_network: 10.6.0.0/16 would leave leases outside" in message
    assert "set flatnet_network_force and flatnet_move" in message
    kept = site.lab.etcd.get_prefix(SUBNETS)
    (first, *others) = kept
    for key in others:
        site.lab.etcd.delete(key)
    # host1 reaches host2, which etcd names no more.
    alone = own("peers", code=2).failures()
    assert any("set flatnet_allow_no_peers" in text for text in alone.values())
    for key, value in kept.items():
        site.lab.etcd.put(key, value)
    assert own("peers").changed() == set()
    assert first in kept
