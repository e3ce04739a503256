# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables of roles and playbooks: documented, and judged before anything changes."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.flatnet.overlay.plugins.plugin_utils import variables

REPOSITORY = Path(__file__).resolve().parents[3]
ROLES = sorted(path for path in (REPOSITORY / "roles").iterdir() if path.is_dir())
KNOWN = variables.load(REPOSITORY / "roles")


def read(path: Path) -> t.Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None


COMMON = set(
    read(REPOSITORY / "roles/common/meta/argument_specs.yml")["argument_specs"]["variables"][
        "options"
    ]
)


def words(*folders: Path) -> set[str]:
    """Every name that begins as our variables do, in files that are not documentation."""
    return {
        word
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in (".yml", ".j2") and path.parent.name != "meta"
        for word in re.findall(r"\bflatnet_[a-z0-9_]+\b", path.read_text(encoding="utf-8"))
    }


def tasks(role: Path) -> t.Iterator[dict[str, t.Any]]:
    for path in sorted((role / "tasks").glob("*.yml")):
        yield from read(path)


def of_common_or(role: Path) -> set[str]:
    specs = (read(role / "meta/argument_specs.yml") or {"argument_specs": {}})["argument_specs"]
    own = {name for entry in specs.values() for name in entry.get("options", {})}
    return own | COMMON


# --- complete -----------------------------------------------------------------------------------


def test_every_variable_in_use_is_documented_or_set_by_the_roles_themselves() -> None:
    used = words(REPOSITORY / "roles", REPOSITORY / "playbooks")
    assert used - set(KNOWN) - variables.INTERNAL == set()
    assert (set(KNOWN) | variables.INTERNAL) - used == set()
    assert variables.INTERNAL & set(KNOWN) == set()


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_documents_what_it_uses(role: Path) -> None:
    used = words(role) - variables.INTERNAL
    # These are documented where they are acted upon first.
    elsewhere = {
        "sync": ["vtep_mac", "lease_ttl", "ipmasq"],
        "common": [name[len("flatnet_") :] for name in KNOWN],
        "look": ["network", "subnet_len", "subnet_min", "subnet_max", "backend"],
    }
    used -= {f"flatnet_{name}" for name in elsewhere.get(role.name, ())}
    assert used - of_common_or(role) == set()


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_defaults_to_what_its_documentation_says(role: Path) -> None:
    for name, value in (read(role / "defaults/main.yml") or {}).items():
        if name not in variables.INTERNAL:
            assert KNOWN[name]["default"] == value


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_variable_is_described_and_has_a_type(name: str) -> None:
    assert KNOWN[name]["description"]
    assert KNOWN[name]["type"]


def test_what_is_checked_beside_types_exists() -> None:
    named = {*variables.CHECKS, *variables.EXCLUSIVE, *variables.OF_THE_NETWORK}
    named |= {*variables.OF_ONE_HOST, *(each for pair in variables.TOGETHER for each in pair)}
    assert named <= set(KNOWN)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_task_that_reaches_etcd_or_asks_for_the_host_says_how(role: Path) -> None:
    # Not the playbooks: a role has to work in a play of anybody's.
    for task in tasks(role):
        given = task.get("module_defaults", {})
        for name in task:
            path = REPOSITORY / f"plugins/modules/{name.rpartition('.')[2]}.py"
            if not name.startswith("flatnet.overlay.") or not path.exists():
                continue
            text = path.read_text(encoding="utf-8")
            if "\n  - flatnet.overlay.etcd\n" in text:
                wanted = "{{ flatnet_etcd }}"
                assert given.get("group/flatnet.overlay.etcd") == wanted, task["name"]
            if "\n  - flatnet.overlay.host\n" in text:
                assert given.get(name) == "{{ flatnet_host }}", task["name"]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "playbooks").glob("*.yml")))
def test_no_playbook_gives_roles_what_they_have_not_of_themselves(path: Path) -> None:
    assert all("module_defaults" not in play for play in read(path))


# --- judged -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("flatnet_subnetlen", "flatnet_subnet_len"),
        ("flatnet_etcd_endpoint", "flatnet_etcd_endpoints"),
        ("flatnet_backends", "flatnet_backend"),
        ("flatnet_zzzzzz", "ansible-doc"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_one(name: str, near: str) -> None:
    assert near in variables.unknown(KNOWN, [name])[name]


def test_other_names_are_nobodys_business() -> None:
    names = ["flat_network", "myflatnet_x", "ansible_host", *KNOWN, *variables.INTERNAL]
    assert variables.unknown(KNOWN, names) == {}


def values(**given: t.Any) -> dict[str, t.Any]:
    return {"flatnet_" + name: value for name, value in given.items()}


def never(host: str, name: str) -> t.Any:
    raise AssertionError("%s of %s is no template" % (name, host))


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (values(sync="servcie"), "flatnet_sync must be one of: service, timer, none"),
        (values(subnet_len="x"), "flatnet_subnet_len"),
        (values(subnet_len=[24]), "flatnet_subnet_len"),
        (values(backend="udp"), "it must be a mapping"),
        (values(backend='{"type": "udp"}'), "it must be a mapping"),
        (values(backend={"type": "vxlann"}), "flatnet_backend"),
        (values(backend={"vnii": 1}), "flatnet_backend has no vnii; it may have direct_routing"),
        (values(network=["10.5.0.0/16"]), "flatnet_network must be text"),
        (values(etcd_timeout="soon"), "flatnet_etcd_timeout"),
        (values(etcd_timeout=0), "less than 0.001"),
        (values(etcd_timeout=61), "more than 60"),
        (values(etcd_timeout="nan"), "flatnet_etcd_timeout"),
        (values(etcd_username="root"), "flatnet_etcd_password is not"),
        (values(etcd_key_file="/k"), "flatnet_etcd_cert_file is not"),
        (values(interface="eth0", can_reach="192.0.2.1"), "exclude each other"),
        (values(interface_regex="eth("), "not a regular expression"),
        (values(can_reach="etcd1"), "not an IP address"),
        (values(public_ip="fd00::1"), "not an IPv4 address"),
        (values(bridge_name="a/b"), "not a device name"),
        (values(vtep_mac="01:00:00:00:00:01"), "not a unicast MAC"),
        (values(subnet="10.5.7.1/24"), "did you mean 10.5.7.0/24"),
        (values(subnet_file="subnet.env"), "not an absolute path"),
        (values(sync_interval=0.1), "less than 1"),
        (values(relay_workers=17), "from 0 to 16"),
        (values(relay_user="Ro ot"), "not a name for a user"),
        (values(install_packages="perhaps"), "flatnet_install_packages"),
        (values(lease_ttl=600, sync="none"), "nothing would renew"),
        (values(lease_ttl=4), "flatnet_lease_ttl: 4 is not from 5"),
        (values(lease_ttl=100, sync="timer"), "set it to 180 or more"),
        (values(lease_ttl="600", sync="timer", sync_interval="300"), "set it to 900 or more"),
        (values(sync_prefix="/opt/our programs"), "has ' ' in it"),
        (values(sync_state_file="/var/lib/%n"), "has '%' in it"),
        (values(segment_vtep="host1"), "not an IP address"),
        (values(segments={"name": "blue", "vni": 1}), "flatnet_segments"),
        (values(segments=[{"name": "blue"}]), "flatnet_segments: segment blue: vni: is required"),
        (values(segments=[{"name": "blue", "vni": 1, "mod": "x"}]), "flatnet_segments has no mod"),
        (values(segments=[{"name": "blue", "vni": 1, "mode": "x"}]), "must be one of: static"),
        (
            values(segments=[{"name": "a", "vni": 1}, {"name": "b", "vni": 1}]),
            "flatnet_segments: segments a and b have the same device",
        ),
        (
            values(segments=[{"name": "a", "vni": 1, "hosts": ["h"], "members": [{"mac": "x"}]}]),
            "segment a: members[0].mac: 'x' is not a MAC address",
        ),
    ],
    ids=str,
)
def test_what_a_module_would_refuse_later_is_refused_first(
    given: dict[str, t.Any], part: str
) -> None:
    (problem,) = variables.check(KNOWN, {"host1": given, "host2": {}}, never)
    assert part in problem
    assert problem.endswith(" (host1)")


def test_what_is_right_is_not_told_of() -> None:
    given = values(
        network="10.5.0.0/16",
        subnet_len="24",
        backend={"type": "vxlan", "vni": "7", "direct_routing": "yes"},
        etcd_endpoints="http://192.0.2.1:2379",
        etcd_username="root",
        etcd_password="secret",
        interface=None,
        can_reach="192.0.2.1",
        bridge_name="cni0",
        sync="timer",
        lease_ttl=600,
        install_packages="no",
        ipmasq="false",
        segments=[
            {
                "name": "blue",
                "vni": "100",
                "mode": "proxy",
                "replicate": "no",
                "hosts": ["host1"],
                "members": [{"host": "host1", "mac": "02:00:00:00:00:01"}],
            }
        ],
    )
    assert variables.check(KNOWN, {"host1": given, "host2": given}, never) == []


def test_a_password_is_never_told() -> None:
    for password in ("hunter2", 42, ["hunter2"], {"a": "hunter2"}):
        found = variables.check(KNOWN, {"h": values(etcd_password=password)}, never)
        assert "hunter2" not in str(found)


def test_what_belongs_to_one_host_or_to_all_is_told() -> None:
    fleet = {
        "host1": values(network="10.5.0.0/16", public_ip="192.0.2.1"),
        "host2": values(network="10.6.0.0/16", public_ip="192.0.2.1"),
        "host3": values(network="10.5.0.0/16", public_ip="192.0.2.3"),
    }
    network, address = variables.check(KNOWN, fleet, never)
    assert "flatnet_network belongs to the network" in network
    assert "10.6.0.0/16" in network
    assert "host1, host2" in address


def test_templates_are_evaluated_for_each_host() -> None:
    asked = []

    def evaluate(host: str, name: str) -> t.Any:
        asked.append((host, name))
        if host == "host3":
            raise ValueError("cannot be evaluated: 'x' is undefined")
        return {"host1": "service", "host2": "servcie"}[host]

    fleet = {
        "host%d" % each: values(sync="{{ x }}", network="{{ y }}", etcd_prefix="{% z %}")
        for each in (1, 2, 3)
    }
    chosen, undefined = variables.check(KNOWN, fleet, evaluate)
    assert asked == [("host%d" % each, "flatnet_sync") for each in (1, 2, 3)]
    assert chosen.endswith("got: servcie (host2)")
    assert undefined == "flatnet_sync: cannot be evaluated: 'x' is undefined (host3)"


def test_many_hosts_are_named_by_the_first_few() -> None:
    fleet = {"host%d" % each: values(sync="x") for each in range(1, 6)} | {"host6": {}}
    (problem,) = variables.check(KNOWN, fleet, never)
    assert problem.endswith("(host1, host2, host3 and 2 more)")


@pytest.mark.parametrize(
    ("members", "reached", "part"),
    [
        (None, None, "no group flatnet"),
        ([], None, "has no hosts"),
        (["host1"], ["host2"], "--limit leaves no host"),
        (["host1"], ["host1", "host2"], ""),
        (["host1"], None, ""),
    ],
)
def test_a_fleet_without_hosts_is_told(
    members: list[str] | None, reached: list[str] | None, part: str
) -> None:
    found = list(variables.missing("flatnet", members, reached))
    assert len(found) == bool(part)
    assert all(part in each for each in found)


def test_the_default_interval_is_the_role_s() -> None:
    assert KNOWN["flatnet_sync_interval"]["default"] == variables.INTERVAL


def test_what_the_roles_have_registered_is_nobodys_mistake() -> None:
    """Of hosts that went through earlier plays, and of those that failed there."""
    own: dict[str, dict[str, t.Any]] = {
        "host1": {
            "flatnet_lease": {"changed": False, "lease": {}},
            "flatnet_network": "10.5.0.0/16",
        },
        "host2": {"flatnet_lease": {"failed": True, "msg": "no"}},
        "host3": {"flatnet_lease": {"unreachable": True}},
    }
    assert variables.misplaced(own, ()) == []
    own["host2"]["flatnet_etcd"] = {"endpoints": ["http://192.0.2.1:2379"]}
    (text,) = variables.misplaced(own, ())
    assert text.startswith("flatnet_etcd is set (for host2), but the roles set it themselves")


@pytest.mark.parametrize("name", [variables.REMOVE, variables.SEGMENTS_REMOVE])
def test_what_removes_something_belongs_on_the_command_line(name: str) -> None:
    own = {"host1": {name: "blue"}, "host2": {}}
    (text,) = variables.misplaced(own, ())
    assert text.startswith("%s is in the inventory (for host1), where it " % name)
    assert "-e %s=" % name in text
    assert variables.misplaced(own, {name: "blue"}) == []
