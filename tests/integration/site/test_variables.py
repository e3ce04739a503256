# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with an inventory or a command line ends a run before it reaches any host.

The hosts here cannot be reached: a run that gets as far as that says so.
"""

from __future__ import annotations

import json
import subprocess
import typing as t
from pathlib import Path

import pytest

from tests.integration.playbooks import Ansible

Inventory = dict[str, t.Any]
Play = t.Callable[..., "subprocess.CompletedProcess[str]"]

SITE, VERIFY, REMOVE = (f"playbooks/{name}.yml" for name in ("site", "verify", "remove"))
NETWORK = {"flatnet_network": "10.5.0.0/16"}


def fleet(**variables: t.Any) -> Inventory:
    """Two hosts, and a third that is not the overlay's."""
    return {
        "all": {
            "hosts": {"switch1": {}},
            "vars": {
                "ansible_connection": "flatnet.overlay.netns",
                "ansible_netns_name": "nowhere",
            },
            "children": {
                "flatnet": {"hosts": {"host1": {}, "host2": {}}, "vars": {**NETWORK, **variables}}
            },
        }
    }


@pytest.fixture
def play(ansible: Ansible, tmp_path: Path) -> Play:
    """Run a playbook with an inventory; what it printed has its white space made one blank."""

    def run(
        playbook: str, inventory: Inventory, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "hosts.json"
        file.write_text(json.dumps(inventory), encoding="utf-8")
        done = ansible("ansible-playbook", playbook, "-i", str(file), *arguments)
        # Results are shown as YAML, which doubles quotes.
        done.stdout = " ".join((done.stdout + done.stderr).split()).replace("''", "'")
        return done

    return run


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """It failed, said why, and reached nobody."""
    assert done.returncode == 2, done.stdout
    for part in parts:
        assert part in done.stdout
    assert "nowhere" not in done.stdout
    assert "Traceback" not in done.stdout
    assert "UNREACHABLE" not in done.stdout


@pytest.mark.matrix
@pytest.mark.parametrize("playbook", [SITE, VERIFY])
def test_a_misspelt_name_is_told_with_the_one_that_was_meant(play: Play, playbook: str) -> None:
    refused(
        play(playbook, fleet(flatnet_subnetlen=24)),
        "flatnet_subnetlen is not a variable of flatnet.overlay; did you mean flatnet_subnet_len?",
    )


@pytest.mark.parametrize("playbook", [SITE, VERIFY, REMOVE])
def test_a_misspelt_name_on_the_command_line_too(play: Play, playbook: str) -> None:
    arguments = ["-e", "flatnet_etcd_endpoint=http://192.0.2.1:2379", "-e", "flatnet_remove=host1"]
    refused(play(playbook, fleet(), *arguments), "did you mean flatnet_etcd_endpoints?")


@pytest.mark.matrix
def test_a_misspelt_name_of_one_host_names_the_host(play: Play) -> None:
    inventory = fleet()
    inventory["all"]["children"]["flatnet"]["hosts"]["host2"] = {"flatnet_publicip": "192.0.2.2"}
    refused(play(SITE, inventory), "did you mean flatnet_public_ip? (host2)")


def test_the_variables_of_others_are_nobodys_business(play: Play) -> None:
    inventory = fleet()
    inventory["all"]["hosts"]["switch1"] = {"flatnet_port": 7}
    done = play(SITE, inventory)
    # It gets as far as the hosts.
    assert done.returncode == 4
    assert "nowhere" in done.stdout
    assert "flatnet_port" not in done.stdout


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"flatnet_sync": "servcie"}, "must be one of: service, timer, none, got: servcie"),
        ({"flatnet_sync": "{{ 'serv' ~ 'cie' }}"}, "got: servcie"),
        ({"flatnet_sync": "{{ typo }}"}, "'typo' is undefined"),
        ({"flatnet_relay_workers": 17}, "flatnet_relay_workers: 17 is not from 0 to 16"),
        ({"flatnet_interface": "eth0", "flatnet_can_reach": "192.0.2.1"}, "exclude each other"),
        ({"flatnet_etcd_username": "root"}, "flatnet_etcd_password is not"),
        ({"flatnet_backend": {"typ": "udp"}}, "flatnet_backend has no typ; it may have"),
        ({"flatnet_public_ip": "192.0.2.1"}, "is set for host1, host2"),
    ],
    ids=str,
)
def test_what_the_last_step_would_refuse_is_refused_first(
    play: Play, variables: dict[str, t.Any], part: str
) -> None:
    refused(play(SITE, fleet(**variables)), part)


@pytest.mark.matrix
def test_templates_that_evaluate_to_what_may_be_are_fine(play: Play) -> None:
    inventory = fleet(
        flatnet_sync="{{ mode | default('timer') }}",
        flatnet_interface="{{ omitted | default(omit) }}",
        flatnet_can_reach="{{ hostvars['switch1'].address }}",
        flatnet_etcd_endpoints="{{ ['http://192.0.2.1:2379'] + [] }}",
        flatnet_public_ip="{{ address }}",
    )
    inventory["all"]["hosts"]["switch1"] = {"address": "192.0.2.9"}
    hosts = inventory["all"]["children"]["flatnet"]["hosts"]
    hosts.update(host1={"address": "192.0.2.1"}, host2={"address": "192.0.2.2"})
    assert "nowhere" in play(SITE, inventory).stdout
    hosts["host2"]["address"] = "192.0.2"
    refused(play(SITE, inventory), "flatnet_public_ip: '192.0.2' is not an IP address (host2)")


@pytest.mark.parametrize("tags", ["peers", "verify"])
def test_it_is_checked_whatever_the_tags(play: Play, tags: str) -> None:
    refused(play(SITE, fleet(flatnet_synk="none"), "--tags", tags), "did you mean flatnet_sync?")


# --- a fleet without hosts ----------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("playbook", [SITE, VERIFY, REMOVE])
def test_an_inventory_without_the_group_is_an_error(play: Play, playbook: str) -> None:
    inventory = {"all": {"hosts": {"host1": {}}}}
    refused(play(playbook, inventory), "the inventory has no group flatnet")
    refused(play(playbook, inventory, "--limit", "host1"), "the inventory has no group flatnet")
    inventory["all"]["children"] = {"flatnet": {}}
    refused(play(playbook, inventory), "the group flatnet of the inventory has no hosts")


@pytest.mark.parametrize("playbook", [SITE, VERIFY])
def test_a_limit_that_leaves_no_host_is_an_error(play: Play, playbook: str) -> None:
    refused(play(playbook, fleet(), "--limit", "switch1"), "--limit leaves no host of the group")


def test_a_limit_that_leaves_some_is_none(play: Play) -> None:
    done = play(SITE, fleet(), "--limit", "host2")
    assert "UNREACHABLE" in done.stdout
    assert "host1" not in done.stdout


# --- who is to leave ----------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "say which hosts are to leave the overlay"),
        (["-e", "flatnet_remove="], "say which hosts are to leave the overlay"),
        (["-e", "flatnet_remov=host1"], "did you mean flatnet_remove?"),
        (["-e", "flatnet_remove=hostX"], "'hostX' names no host of the inventory"),
        (["-e", "flatnet_remove=host1,hostX"], "'hostX' names no host of the inventory"),
        (["-e", "flatnet_remove=!host1"], "'!host1' names no host of the inventory"),
        (["-e", "flatnet_remove=host1:host2"], "'host1:host2' names no host of the inventory"),
        (["-e", "flatnet_remove=switch1"], "'switch1' names switch1, not in the group flatnet"),
        (
            ["-e", "flatnet_remove=host1", "-l", "host2"],
            "--limit leaves out what 'host1' names",
        ),
    ],
    ids=str,
)
def test_a_removal_that_would_remove_nobody_is_an_error(
    play: Play, arguments: list[str], part: str
) -> None:
    refused(play(REMOVE, fleet(), *arguments), part)


@pytest.mark.parametrize(
    "name", ["flatnet_etcd", "flatnet_host", "flatnet_lease", "flatnet_prepare_packages"]
)
@pytest.mark.parametrize("how", ["inventory", "command line"])
def test_a_name_that_the_roles_set_themselves_is_not_for_users(
    play: Play, name: str, how: str
) -> None:
    """Somebody takes it for an option, and would have broken the roles, or got nothing by it."""
    if how == "inventory":
        done = play(SITE, fleet(**{name: "https://192.0.2.1:2379"}))
    else:
        done = play(SITE, fleet(), "-e", name + "=https://192.0.2.1:2379")
    refused(done, f"{name} is set (for host1", "but the roles set it themselves")


@pytest.mark.parametrize("playbook", [SITE, REMOVE])
@pytest.mark.parametrize("limit", [[], ["-l", "host1"]], ids=["all", "limit"])
def test_a_removal_that_the_inventory_asks_for_is_an_error(
    play: Play, playbook: str, limit: list[str]
) -> None:
    """A play's hosts are chosen before a host's variables are known, so that nobody would leave."""
    done = play(playbook, fleet(flatnet_remove="host1"), *limit)
    refused(done, "flatnet_remove is in the inventory (for host1", "-e flatnet_remove=host3")
    assert "say which hosts are to leave" not in done.stdout
    done = play(REMOVE, fleet(flatnet_remove="host1"), "-e", "flatnet_remove=host1")
    assert "in the inventory" not in done.stdout
    assert "PLAY [Take hosts out of the overlay]" in done.stdout


def test_a_removal_of_segments_that_the_inventory_asks_for_is_an_error(play: Play) -> None:
    """Each run would be one."""
    done = play("playbooks/segment.yml", fleet(flatnet_segments_remove="blue"))
    refused(done, "flatnet_segments_remove is in the inventory (for host1", "-e flatnet_segments_r")


def test_a_removal_names_hosts_groups_and_patterns(play: Play) -> None:
    for names in ("host1", "host1, host2", "flatnet", "host*"):
        done = play(REMOVE, fleet(), "-e", json.dumps({"flatnet_remove": names}))
        assert "UNREACHABLE" in done.stdout, names
