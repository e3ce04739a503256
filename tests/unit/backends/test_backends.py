# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One backend is one class: a made-up one is added here, and the whole pure course runs with it."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import yaml
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends import known
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.field import (
    MTU,
    Field,
    port_field,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.backends.protocol import (
    Backend,
    Here,
    Holder,
    Peer,
    UnderlayLink,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import InvalidInput
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.assignment import (
    Wish,
    decide,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    InvalidConfig,
    NetworkConfig,
    parse_config,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.host import Host
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.lease import (
    InvalidLease,
    Lease,
    parse_lease,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    Address,
    Device,
    Entry,
    Fdb,
    Link,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.route_lookup import (
    FLANNEL,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay import (
    devices,
    overlap,
    peers,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.peer_table import (
    PeerTable,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.rules import Rules
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.underlay import (
    Adjacency,
    Underlay,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.takeover import misfit
from ansible_collections.flatnet.overlay.plugins.modules import flannel_network

ROOT = Path(__file__).parents[3]
UNDERLAY = Underlay("eth0", "192.0.2.1/24", 1500, "default route")
LINK = Route("192.0.2.0/24", "eth0", src="192.0.2.1", protocol=2)
HOST = Host("a" * 32, "one", "192.0.2.1")

# --- a backend that is not there ------------------------------------------------------------------


class Berth(NamedTuple):
    """Where a host's pigeons land."""

    number: int

    def to_dict(self) -> dict[str, Any]:
        return {"Berth": self.number}

    @property
    def unique(self) -> str:
        return "berth %d" % self.number

    @property
    def options(self) -> dict[str, Any]:
        return {"berth": self.number}


@dataclass(frozen=True)
class Pigeon(Backend):
    """A packet is a pigeon. It carries 42 bytes of its own."""

    port: int = 1149
    mtu: int | None = None
    flock: int = 7
    homing: bool = False

    type: ClassVar[str] = "pigeon"
    fields: ClassVar[tuple[Field, ...]] = (
        port_field(1149),
        MTU,
        Field("Flock", "flock", 7, 1, 9),
        Field("Homing", "homing", False),
    )
    overhead: ClassVar[Mapping[int, int]] = {4: 42}
    lease_type: ClassVar[str] = "pigeon"
    lease_options: ClassVar[tuple[str, ...]] = ("berth",)
    modules: ClassVar[tuple[str, ...]] = ("bridge", "pigeon")
    maker: ClassVar[str] = "pigeon_loft"
    device_names: ClassVar[tuple[str, ...]] = ("flannel*",)

    @property
    def device(self) -> str:
        return "flannel-pg"

    def lease_data(self, holder: Holder) -> Berth:
        return Berth(len(holder.host_id))

    @classmethod
    def read_lease(cls, data: Any, data6: Any, dual: bool) -> tuple[Berth, None]:
        if not isinstance(data, dict) or not isinstance(data.get("Berth"), int):
            raise InvalidInput("BackendData.Berth is not a number")
        return Berth(data["Berth"]), None

    def refusal(self, peer: Peer, own: Peer) -> str | None:
        return super().refusal(peer, own) or (
            "nobody lives at berth 13" if peer.data == Berth(13) else None
        )

    def devices(self, here: Here) -> tuple[Device, ...]:
        link = Link(
            self.device, "pigeon", self.overlay_mtu(here.mtu), options=(("local", here.ip),)
        )
        return (Device(link, (Address(self.device, here.first + "/32"),), exclusive=True),)

    def network_routes(self, network: str) -> tuple[Route, ...]:
        return (Route(network, self.device),)

    def entries(self, peer: Peer, link: UnderlayLink) -> tuple[Entry, ...]:
        mac = "02:00:00:00:00:%02x" % (peer.data.to_dict()["Berth"] if peer.data else 0)
        return (
            Fdb(self.device, mac, peer.public_ip),
            Route(peer.subnet, self.device, peer.public_ip, onlink=True),
        )


@pytest.fixture
def pigeon(monkeypatch: pytest.MonkeyPatch) -> Iterator[NetworkConfig]:
    """The one line that a backend takes apart from its class."""
    monkeypatch.setitem(known.BACKENDS, Pigeon.type, Pigeon)
    return parse_config('{"Network":"10.5.0.0/16","Backend":{"Type":"Pigeon","flock":3}}')


def peer(number: int, berth: int, kind: str = "pigeon") -> Lease:
    value = {
        "PublicIP": "192.0.2.%d" % number,
        "BackendType": kind,
        "BackendData": {"Berth": berth},
    }
    return parse_lease("10.5.%d.0-24" % number, json.dumps(value))


def own_lease(config: NetworkConfig) -> Lease:
    return decide(config, (), (), HOST, Wish(subnet="10.5.1.0/24")).after


def test_its_fields_are_read_with_its_defaults_and_ranges(pigeon: NetworkConfig) -> None:
    assert pigeon.backend == Pigeon(1149, None, 3, False)
    assert pigeon.to_dict()["Backend"] == {"Type": "pigeon", "Port": 1149, "Flock": 3}
    assert parse_config(pigeon.to_json()) == pigeon
    for fields, words in (
        ({"Flock": 10}, "Backend.Flock 10 is not a whole number from 1 to 9"),
        ({"Homing": 1}, "Backend.Homing 1 must be true or false"),
    ):
        text = json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "pigeon", **fields}})
        with pytest.raises(InvalidConfig, match=words):
            parse_config(text)
    # Of another backend's fields nothing is known, as in flannel.
    other = parse_config('{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Flock":"?","VNI":0}}')
    assert other.to_dict()["Backend"] == {"Type": "udp", "Port": 8285}


def test_users_can_ask_for_it(pigeon: NetworkConfig) -> None:
    spec = flannel_network.arguments()["backend"]["options"]
    assert "pigeon" in spec["type"]["choices"]
    assert (spec["flock"], spec["homing"]) == ({"type": "int"}, {"type": "bool"})
    given = dict.fromkeys([*flannel_network.FIELDS, "force", "move"])
    backend = {**dict.fromkeys(spec), "type": "pigeon", "flock": 3}
    asked = {**given, "network": "10.5.0.0/16", "backend": backend}
    assert flannel_network.wanted(asked) == pigeon
    with pytest.raises(InvalidInput, match=r"backend\.vni: the pigeon backend has no such field"):
        flannel_network.wanted({**asked, "backend": {**backend, "vni": 1}})
    with pytest.raises(InvalidInput, match=r"backend\.flock: the vxlan backend has no such field"):
        flannel_network.wanted({**asked, "backend": {**backend, "type": "vxlan"}})


def test_its_lease_says_what_it_says(pigeon: NetworkConfig) -> None:
    own = own_lease(pigeon)
    assert own.data == Berth(32)
    value = json.loads(own.to_json())
    assert (value["BackendType"], value["BackendData"]) == ("pigeon", {"Berth": 32})
    assert parse_lease(own.key_name, own.to_json()) == own
    assert known.lease_options(own.data)["berth"] == 32
    assert misfit(pigeon, own) is None
    plain = parse_config('{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}')
    assert "lease is for the backend pigeon, the network's is host-gw" in str(misfit(plain, own))
    with pytest.raises(InvalidLease, match=r"10\.5\.7\.0-24: BackendData\.Berth is not a number"):
        parse_lease("10.5.7.0-24", '{"PublicIP":"192.0.2.7","BackendType":"pigeon"}')


def test_its_peers_are_chosen_by_its_rules_and_by_everybodys(pigeon: NetworkConfig) -> None:
    own = own_lease(pigeon)
    leases = [peer(2, 2), peer(3, 13), peer(4, 2), peer(5, 5, "host-gw"), peer(6, 6)]
    found = Rules(pigeon, own, [Address("eth0", "192.0.2.1/24")]).select([own, *leases])
    assert [each.subnet for each in found.usable] == ["10.5.2.0/24", "10.5.6.0/24"]
    assert [each.reason for each in found.skipped] == [
        "nobody lives at berth 13",
        "berth 2 is that of 192.0.2.2 too",
        "its backend is host-gw, the network's is pigeon",
    ]


def test_its_devices_and_entries_are_what_a_host_gets(pigeon: NetworkConfig) -> None:
    own = own_lease(pigeon)
    (device,) = devices.of_backend(pigeon, own, UNDERLAY)
    assert (device.link.name, device.link.mtu) == ("flannel-pg", 1458)
    assert device.addresses == (Address("flannel-pg", "10.5.1.0/32"),)
    wanted = peers.entries(pigeon, [peer(2, 2)], UNDERLAY, [LINK])
    assert wanted == (
        Fdb("flannel-pg", "02:00:00:00:00:02", "192.0.2.2"),
        Route("10.5.2.0/24", "flannel-pg", "192.0.2.2", onlink=True),
    )
    everything = Route("10.5.0.0/16", "flannel-pg")
    stale = Route("10.5.9.0/24", "flannel-pg", "192.0.2.9", onlink=True)
    found = peers.changes(
        wanted, "flannel-pg", (), [LINK, stale], network_routes=peers.network_routes(pigeon)
    )
    assert [str(each).split()[0:3] for each in found] == [
        ["add", "fdb", wanted[0].mac],
        ["add", "route", "10.5.2.0/24"],
        ["add", "route", "10.5.0.0/16"],
        ["remove", "route", "10.5.9.0/24"],
    ]
    # The network's route alone reaches nobody, and is not taken for a peer.
    peers.changes((), "flannel-pg", (), [everything], (), False, [everything])
    table = PeerTable(
        Rules(pigeon, own, ()),
        lambda usable: peers.encode(pigeon, usable, Adjacency(UNDERLAY, [LINK])),
    )
    table.replace([own, peer(2, 2)])
    assert tuple(table.desired.values()) == wanted
    # All of the network is routed into it, so nothing that the host needs may be there.
    seen = overlap.Surroundings((), (), {"10.5.0.9": "an address of etcd"})
    assert overlap.conflicts(pigeon, seen, None) == ["10.5.0.9 is an address of etcd"]


def test_roles_are_told_what_it_needs(pigeon: NetworkConfig) -> None:
    found = known.describe(pigeon.backend)
    assert {name: found[name] for name in ("type", "device", "port", "flock", "maker")} == {
        "type": "pigeon",
        "device": "flannel-pg",
        "port": 1149,
        "flock": 3,
        "maker": "pigeon_loft",
    }
    assert found["modules"] == ["bridge", "pigeon"]
    assert "pigeon" in known.modules()


# --- those that are -------------------------------------------------------------------------------


def test_all_devices_are_known_to_be_flannels() -> None:
    for kind, backend in known.BACKENDS.items():
        device = known.parse({"Type": kind}).device
        if device is None:
            assert (backend.maker, backend.device_names) == ("", ())
            continue
        assert FLANNEL.fullmatch(device)
        assert any(fnmatch.fnmatchcase(device, name) for name in backend.device_names)
        assert (ROOT / "plugins" / "modules" / (backend.maker + ".py")).exists()


@pytest.mark.parametrize(
    ("kind", "over4", "over6"),
    [("vxlan", 1450, 1430), ("host-gw", 1500, 1500), ("udp", 1472, None), ("alloc", 1500, 1500)],
)
def test_the_mtu_follows_from_the_underlays_family(
    kind: str, over4: int, over6: int | None
) -> None:
    found = known.parse({"Type": kind})
    assert found.overlay_mtu(1500, 4) == over4
    if over6 is None:
        assert 6 not in found.overhead
    else:
        assert found.overlay_mtu(1500, 6) == over6


def test_results_have_what_they_had_for_each_backend() -> None:
    """Fields that a backend does not take have their defaults; a port only who sends to one."""
    usual = {"vni": 1, "mtu": None, "gbp": False, "learning": False, "direct_routing": False}
    for kind, device, port in (
        ("vxlan", "flannel.1", 8472),
        ("host-gw", None, None),
        ("udp", "flannel0", 8285),
        ("alloc", None, None),
    ):
        found = known.describe(known.parse({"Type": kind}))
        expected = {**usual, "type": kind, "device": device, "port": port}
        assert {name: found[name] for name in expected} == expected
        assert found["device_names"] == ["flannel*"]
        assert found["fixed_macs"] == ["flannel.*"]


def test_the_role_offers_all_of_them_with_all_of_their_fields() -> None:
    specs = yaml.safe_load((ROOT / "roles/network/meta/argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"]["flatnet_backend"]["options"]
    assert options["type"]["choices"] == list(known.BACKENDS)
    assert options.keys() == {"type", *known.offered()}


def test_with_alloc_no_lease_is_a_peer_and_nothing_is_to_be_in_the_kernel() -> None:
    alloc = parse_config('{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}')
    own = own_lease(alloc)
    assert (own.backend_type, own.data, own.vector) == ("", None, 0)
    other = Lease("10.5.2.0/24", "192.0.2.2")
    rules = Rules(alloc, own, ())
    assert rules.select([own, other]) == ((), ())
    table = PeerTable(rules, lambda usable: peers.encode(alloc, usable, Adjacency(UNDERLAY, ())))
    table.replace([own, other])
    assert (table.peers, table.desired, table.skipped) == (0, {}, {})
    table.update({other.key_name: None})
    assert table.leases == {own.key_name: own}
    assert devices.of_backend(alloc, own, UNDERLAY) == ()
    assert peers.network_routes(alloc) == ()
    assert alloc.backend.overlay_mtu(1500) == 1500


# --- nobody else knows their names ----------------------------------------------------------------

_NAMES = frozenset(known.BACKENDS)
# Where one is compared, or looked up, in YAML or in a template.
_IN_TEMPLATE = re.compile(
    r"""(?:==|!=|\bin\b)\s*[(\[]?\s*['"](?:%(names)s)['"]|['"](?:%(names)s)['"]\s*(?:==|!=|in\b|:)"""
    % {"names": "|".join(_NAMES)}
)


def _in_python(text: str) -> Iterator[int]:
    """Lines that compare something with a backend's name, or look something up by it."""
    for node in ast.walk(ast.parse(text)):
        found: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            # Linux has devices of the kind vxlan.
            kinds = any(isinstance(each, ast.Attribute) and each.attr == "kind" for each in sides)
            found = [] if kinds else sides
        elif isinstance(node, ast.Subscript):
            found = [node.slice]
        elif isinstance(node, ast.Dict):
            found = [key for key in node.keys if key]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(
            node.value, (ast.Tuple, ast.List, ast.Set)
        ):
            found = [node.value]
        for each in found:
            for part in ast.walk(each):
                if isinstance(part, ast.Constant) and part.value in _NAMES:
                    yield part.lineno


def _compared(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        lines = set(_in_python(text))
    else:
        lines = {
            number for number, line in enumerate(text.splitlines(), 1) if _IN_TEMPLATE.search(line)
        }
    return ["%s:%d" % (path.name, number) for number in sorted(lines)]


@pytest.mark.parametrize("folder", ["plugins", "roles", "playbooks", "tests/lab"])
def test_nobody_else_compares_the_names_of_backends(folder: str) -> None:
    found = []
    for path in sorted((ROOT / folder).rglob("*")):
        inside = path.relative_to(ROOT).as_posix()
        # In kernel/ they are kinds of devices.
        own = "_flatnet/backends/" in inside or "_flatnet/kernel/" in inside
        if path.suffix in (".py", ".yml", ".j2") and not own:
            found += _compared(path)
    assert found == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.py", 'x = backend.type == "udp"'),
        ("a.py", 'x = backend.type in ("vxlan", "udp")'),
        ("a.py", 'x = {"vxlan": 1}.get(kind)'),
        ("a.py", 'x = PORTS["udp"]'),
        ("a.py", 'BACKENDS = ("vxlan", "host-gw")'),
        ("a.yml", "when: flatnet_lease.backend.type == 'vxlan'"),
        ("a.yml", 'when: flatnet_lease.backend.type != "udp"'),
        ("a.yml", "when: flatnet_lease.backend.type in ['vxlan', 'udp']"),
        ("a.j2", "{% if 'udp' == backend %}"),
        ("a.j2", "{{ {'udp': 8285}[backend] }}"),
    ],
)
def test_a_comparison_is_found(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / name).write_text("# one\n%s\n" % line)
    assert _compared(tmp_path / name) == [name + ":2"]
