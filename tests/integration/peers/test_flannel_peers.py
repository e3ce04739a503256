# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flannel_peers on hosts of the lab, among leases that were written by hand as flanneld does.

host1 and host2 share a segment, host3 is behind the router. host1 holds 10.5.1.0/24.
"""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay import config, control

from tests.integration.overlay import ETCD_CASES, PREFIX, Overlay, host_gw_lease, vxlan_lease
from tests.lab import Host, Lab
from tests.lab.waiting import wait
from tests.relay.hosts import PYTHON, Running, lose_reload

MODULE = "flannel_peers"
CORE = Path(__file__).resolve().parents[3] / "plugins/module_utils/_flatnet"
VXLAN = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'
HOST_GW = '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}'
UDP = '{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}'
DIRECT = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}'


def mac(number: int) -> str:
    return "0a:00:00:00:%02x:%02x" % divmod(number, 256)


@pytest.fixture(scope="module")
def two_segments(lab_factory: t.Callable[..., Lab]) -> Lab:
    return lab_factory(hosts=3, segments=2)


@pytest.fixture
def bare(two_segments: Lab) -> Overlay:
    overlay = Overlay(two_segments)
    overlay.clean()
    return overlay


@pytest.fixture
def vxlan(bare: Overlay) -> Overlay:
    join(bare, VXLAN)
    return bare


@pytest.fixture
def host_gw(bare: Overlay) -> Overlay:
    join(bare, HOST_GW)
    return bare


def join(overlay: Overlay, config: str, host: Host | None = None, number: int = 1) -> None:
    """What comes before the peers: config, lease, device."""
    host = host or overlay.host
    overlay.etcd.put(PREFIX + "/config", config)
    arguments = {"subnet": f"10.5.{number}.0/24"}
    lease = overlay.run("flannel_subnet", host=host, **arguments)["lease"]
    if lease["vtep_mac"]:
        overlay.make_vtep(lease["vtep_mac"], host)


def peer(overlay: Overlay, number: int, address: str | None = None) -> None:
    """A flanneld's lease of 10.5.<number>.0/24."""
    address = address or "172.21.1.%d" % number
    overlay.put_lease("10.5.%d.0/24" % number, vxlan_lease(address, mac(number)))


def reached(overlay: Overlay, host: Host | None = None) -> list[str]:
    """Neighbours and forwarding entries of the overlay's device; routes but for the kernel's."""
    script = (
        "ip neigh show dev flannel.1; bridge fdb show dev flannel.1; "
        "ip route show | grep -v 'proto kernel' | grep -v ^default"
    )
    done = (host or overlay.host).exec(["sh", "-c", script])
    return sorted(line.strip() for line in done.stdout.splitlines())


def entries(*peers: tuple[int, str, str]) -> list[str]:
    """What these peers (number, MAC, public IP) are in ip's words."""
    found = []
    for number, lladdr, address in peers:
        hop = f"10.5.{number}.0"
        found.append(f"{hop} lladdr {lladdr} PERMANENT")
        found.append(f"{lladdr} dst {address} self permanent")
        found.append(f"{hop}/24 via {hop} dev flannel.1 proto 110 onlink")
    return sorted(found)


def ip(host: Host, command: str) -> None:
    host.exec(["ip", *command.split()], check=True)


# --- vxlan --------------------------------------------------------------------------------------


@pytest.mark.matrix
def test_vxlan_peers_are_neighbour_forwarding_entry_and_route(vxlan: Overlay) -> None:
    peer(vxlan, 7)
    peer(vxlan, 8)
    done = vxlan.converge(MODULE)
    assert (done["peers"], done["unused"], done["device"]) == (2, [], "flannel.1")
    assert reached(vxlan) == entries((7, mac(7), "172.21.1.7"), (8, mac(8), "172.21.1.8"))
    assert done["diff"]["before"] == ""
    assert sorted(done["diff"]["after"].splitlines()) == sorted(
        line
        for n in (7, 8)
        for line in (
            f"neigh 10.5.{n}.0 lladdr {mac(n)} dev flannel.1 permanent",
            f"fdb {mac(n)} dev flannel.1 dst 172.21.1.{n} self permanent",
            f"route 10.5.{n}.0/24 via 10.5.{n}.0 dev flannel.1 onlink proto flatnet",
        )
    )

    ip(vxlan.host, "route add 10.9.0.0/16 via 172.21.0.1 proto static")
    gone = vxlan.converge(MODULE, state="absent")
    assert (gone["peers"], gone["diff"]["after"]) == (0, "")
    assert reached(vxlan) == ["10.9.0.0/16 via 172.21.0.1 dev eth0 proto static"]


@pytest.mark.matrix
@pytest.mark.parametrize("config", [VXLAN, DIRECT, HOST_GW])
def test_packets_arrive(bare: Overlay, config: str) -> None:
    hosts = bare.hosts[:2] if config == HOST_GW else bare.hosts
    for number, host in enumerate(hosts, 1):
        join(bare, config, host, number)
        ip(host, "link add cni0 type bridge")
        ip(host, f"addr add 10.5.{number}.1/24 dev cni0")
        ip(host, "link set cni0 up")
        if config != HOST_GW:
            ip(host, f"addr add 10.5.{number}.0/32 dev flannel.1")
    for host in hosts:
        assert bare.run(MODULE, host=host)["peers"] == len(hosts) - 1
    for host in hosts:
        others = [f"10.5.{n}.1" for n, other in enumerate(hosts, 1) if other is not host]
        done = host.exec(["fping", "-q", "-r", "5", *others])
        assert done.returncode == 0, done.stderr


def test_whatever_changes_about_a_peer_leaves_nothing_of_before(vxlan: Overlay) -> None:
    for number in (7, 8, 9, 10, 11):
        peer(vxlan, number)
    vxlan.run(MODULE)
    vxlan.put_lease("10.5.7.0/24", vxlan_lease("172.21.1.7", mac(77)))
    vxlan.put_lease("10.5.8.0/24", vxlan_lease("172.21.1.88", mac(8)))
    vxlan.put_lease("10.5.9.0/24", vxlan_lease("172.21.1.99", mac(99)))
    vxlan.etcd.delete(PREFIX + "/subnets/10.5.10.0-24")
    vxlan.put_lease("10.5.110.0/24", vxlan_lease("172.21.1.10", mac(10)))
    # 11 and 12 change places.
    vxlan.put_lease("10.5.11.0/24", vxlan_lease("172.21.1.12", mac(12)))
    vxlan.put_lease("10.5.12.0/24", vxlan_lease("172.21.1.11", mac(11)))
    done = vxlan.converge(MODULE)
    assert reached(vxlan) == entries(
        (7, mac(77), "172.21.1.7"),
        (8, mac(8), "172.21.1.88"),
        (9, mac(99), "172.21.1.99"),
        (110, mac(10), "172.21.1.10"),
        (11, mac(12), "172.21.1.12"),
        (12, mac(11), "172.21.1.11"),
    )
    assert f"neigh 10.5.7.0 lladdr {mac(7)} dev" in done["diff"]["before"]
    assert f"neigh 10.5.7.0 lladdr {mac(77)} dev" in done["diff"]["after"]


def test_what_somebody_did_to_the_device_is_put_right(vxlan: Overlay) -> None:
    peer(vxlan, 7)
    vxlan.run(MODULE)
    right = reached(vxlan)
    for command in (
        "ip neigh del 10.5.7.0 dev flannel.1",
        f"ip neigh replace 10.5.7.0 lladdr {mac(9)} dev flannel.1 nud permanent",
        f"bridge fdb del {mac(7)} dev flannel.1 dst 172.21.1.7",
        f"bridge fdb replace {mac(7)} dev flannel.1 dst 172.21.1.9",
        f"bridge fdb append {mac(8)} dev flannel.1 dst 172.21.1.9",
        "ip route del 10.5.7.0/24",
        "ip route replace 10.5.7.0/24 dev flannel.1",
        "ip route add 10.5.99.0/24 dev flannel.1",
        "ip route add 10.99.0.0/16 via 172.21.0.1 proto 110",
        "ip link set flannel.1 down; ip link set flannel.1 up",
    ):
        vxlan.host.exec(["sh", "-c", command], check=True)
        assert reached(vxlan) != right
        assert vxlan.run(MODULE)["changed"]
        assert reached(vxlan) == right
    vxlan.unchanged(MODULE)


def test_2000_peers_in_one_run(bare: Overlay) -> None:
    join(bare, '{"Network":"10.5.0.0/11","SubnetMin":"10.5.0.0","Backend":{"Type":"vxlan"}}')
    count = 2000
    leases = {}
    for number in range(count):
        name = "10.%d.%d.0-24" % (8 + number // 250, number % 250)
        address = "172.21.%d.%d" % (8 + number // 250, 1 + number % 250)
        leases[name] = vxlan_lease(address, mac(number))
    bare.put_leases(leases)
    done = bare.run(MODULE)
    assert done["peers"] == count
    for command in (
        "ip neigh show dev flannel.1 nud permanent",
        "bridge fdb show dev flannel.1",
        "ip route show dev flannel.1 proto 110",
    ):
        lines = bare.host.exec(command.split(), check=True).stdout.splitlines()
        assert len(set(lines)) == len(lines) == count, command
    for name, value in list(leases.items())[:: count // 7]:
        hop = name.partition("-")[0]
        assert hop in bare.host.exec(["ip", "route", "get", hop[:-1] + "9"]).stdout
        assert value.partition('"VtepMAC":"')[2][:17] in "".join(reached(bare))
    bare.unchanged(MODULE)
    # Half of them leave.
    for number in range(4):
        bare.etcd.delete(PREFIX + "/subnets/10.%d." % (8 + number), prefix=True)
    assert bare.run(MODULE)["peers"] == count // 2
    assert len(reached(bare)) == 3 * count // 2
    bare.run(MODULE, state="absent")
    assert reached(bare) == []


# --- host-gw and direct routing -----------------------------------------------------------------


@pytest.mark.matrix
def test_host_gw_peers_are_a_route(host_gw: Overlay) -> None:
    host_gw.put_lease("10.5.7.0/24", host_gw_lease("172.21.1.7"))
    done = host_gw.converge(MODULE)
    assert (done["peers"], done["device"]) == (1, None)
    assert reached(host_gw) == ["10.5.7.0/24 via 172.21.1.7 dev eth0 proto 110"]
    host_gw.put_lease("10.5.7.0/24", host_gw_lease("172.21.1.8"))
    host_gw.converge(MODULE)
    assert reached(host_gw) == ["10.5.7.0/24 via 172.21.1.8 dev eth0 proto 110"]
    host_gw.run(MODULE, state="absent")
    assert reached(host_gw) == []


def test_host_gw_names_every_host_that_is_off_the_link(host_gw: Overlay) -> None:
    host_gw.put_lease("10.5.7.0/24", host_gw_lease("172.21.1.7"))
    host_gw.run(MODULE)
    host_gw.put_lease("10.5.8.0/24", host_gw_lease("172.21.1.8"))
    host_gw.run("flannel_subnet", host=host_gw.hosts[2])
    host_gw.put_lease("10.5.9.0/24", host_gw_lease("192.0.2.9"))
    host_gw.refused(
        MODULE,
        "host3 (172.22.0.13) (it is reached through 172.21.0.1)",
        "192.0.2.9 (it is reached through 172.21.0.1)",
        "DirectRouting",
    )
    assert reached(host_gw) == ["10.5.7.0/24 via 172.21.1.7 dev eth0 proto 110"]


@pytest.mark.matrix
def test_direct_routing_on_the_link_and_vxlan_off_it(bare: Overlay) -> None:
    join(bare, DIRECT)
    peer(bare, 7)
    peer(bare, 8, "172.22.0.8")
    assert bare.converge(MODULE)["peers"] == 2
    assert reached(bare) == sorted(
        [
            "10.5.7.0/24 via 172.21.1.7 dev eth0 proto 110",
            *entries((8, mac(8), "172.22.0.8")),
        ]
    )
    # Each moves to where the other was.
    peer(bare, 8, "172.21.1.8")
    peer(bare, 7, "172.22.0.7")
    bare.run(MODULE)
    assert reached(bare) == sorted(
        [
            "10.5.8.0/24 via 172.21.1.8 dev eth0 proto 110",
            *entries((7, mac(7), "172.22.0.7")),
        ]
    )
    # And DirectRouting is switched off.
    bare.etcd.put(PREFIX + "/config", VXLAN)
    bare.run(MODULE)
    assert reached(bare) == entries((7, mac(7), "172.22.0.7"), (8, mac(8), "172.21.1.8"))


# --- what is not touched ------------------------------------------------------------------------


@pytest.mark.matrix
def test_a_foreign_route_in_a_peers_place_is_an_error(host_gw: Overlay) -> None:
    for number in (7, 8):
        host_gw.put_lease(f"10.5.{number}.0/24", host_gw_lease(f"172.21.1.{number}"))
    for foreign in ("via 172.21.0.1", "dev lo", "via 172.21.1.8 src 172.21.0.11"):
        ip(host_gw.host, f"route add 10.5.8.0/24 {foreign} proto static")
        message = host_gw.refused(MODULE, "10.5.8.0/24", "nothing was changed")
        assert "static" in message
        ip(host_gw.host, "route del 10.5.8.0/24")
    # One that differs in metric is another route; one that says the same becomes ours.
    ip(host_gw.host, "route add 10.5.8.0/24 via 172.21.0.1 metric 50")
    ip(host_gw.host, "route add 10.5.7.0/24 via 172.21.1.7 proto static")
    done = host_gw.converge(MODULE)
    assert "10.5.7.0/24 via 172.21.1.7 dev eth0 proto static" in done["diff"]["before"]
    assert reached(host_gw) == [
        "10.5.7.0/24 via 172.21.1.7 dev eth0 proto 110",
        "10.5.8.0/24 via 172.21.0.1 dev eth0 metric 50",
        "10.5.8.0/24 via 172.21.1.8 dev eth0 proto 110",
    ]


def test_a_flannelds_entries_are_taken_over_in_place(vxlan: Overlay) -> None:
    peer(vxlan, 7)
    for command in (
        f"ip neigh replace 10.5.7.0 lladdr {mac(7)} dev flannel.1 nud permanent",
        f"bridge fdb replace {mac(7)} dev flannel.1 dst 172.21.1.7",
        "ip route add 10.5.7.0/24 via 10.5.7.0 dev flannel.1 onlink",
        "ip route add 10.5.66.0/24 via 10.5.66.0 dev flannel.1 onlink",
    ):
        vxlan.host.exec(command.split(), check=True)
    done = vxlan.converge(MODULE)
    assert reached(vxlan) == entries((7, mac(7), "172.21.1.7"))
    assert "neigh" not in done["diff"]["before"] + done["diff"]["after"]


# --- bad and missing information ----------------------------------------------------------------


def test_leases_that_nobody_should_act_upon_are_not_used_with_a_warning(vxlan: Overlay) -> None:
    peer(vxlan, 7)
    bad = {
        "10.6.7.0-24": (vxlan_lease("172.21.2.1", mac(21)), "outside the network"),
        "10.5.1.128-25": (vxlan_lease("172.21.2.2", mac(22)), "own subnet 10.5.1.0/24"),
        "10.5.22.0-24": (vxlan_lease("172.21.0.11", mac(23)), "an address of this host"),
        "10.5.23.0-24": (host_gw_lease("172.21.2.4"), "its backend is host-gw"),
        "10.5.24.0-24": (vxlan_lease("172.21.2.5", mac(25), vni=9), "its VNI is 9"),
        "10.5.25.0-24": (vxlan_lease("10.5.25.7", mac(26)), "inside"),
        "10.5.70.0-24": (vxlan_lease("172.21.2.7", mac(7)), "that of 172.21.1.7 too"),
        "10.5.26.0-24": ("{", "not JSON"),
        "10.5.27.0-24": (vxlan_lease("172.21.2.8", "01:00:5e:00:00:01"), "not a unicast MAC"),
        "10.5.28.0-24": (vxlan_lease("127.0.0.1", mac(28)), "cannot be the address of a host"),
        "10.5.29.7-24": (vxlan_lease("172.21.2.9", mac(29)), "is not a subnet"),
        "0.0.0.0-0": (vxlan_lease("172.21.2.10", mac(30)), "can never belong to a host"),
    }
    vxlan.put_leases({name: value for name, (value, _reason) in bad.items()})
    done = vxlan.converge(MODULE)
    assert done["peers"] == 1
    assert reached(vxlan) == entries((7, mac(7), "172.21.1.7"))
    assert len(done["unused"]) == len(bad)
    for name, (_value, reason) in bad.items():
        subnet = name.replace("-", "/")
        texts = [text for text in done["unused"] if name in text or subnet + " " in text]
        assert len(texts) == 1, name
        assert reason in texts[0]
    assert done["warnings"] == [*done["unused"][:10], "2 more leases are not used; see the result"]


def test_a_lease_that_becomes_unreadable_is_missing_information(vxlan: Overlay) -> None:
    peer(vxlan, 7)
    peer(vxlan, 8)
    vxlan.run(MODULE)
    right = reached(vxlan)
    vxlan.put_lease("10.5.7.0/24", "{")
    done = vxlan.unchanged(MODULE)
    assert (done["peers"], len(done["warnings"])) == (1, 1)
    assert reached(vxlan) == right


def test_without_our_own_lease_nothing_is_changed(vxlan: Overlay) -> None:
    peer(vxlan, 7)
    vxlan.run(MODULE)
    vxlan.etcd.delete(PREFIX + "/subnets/10.5.1.0-24")
    text = "no lease of this host, host1 (172.21.0.11), among its 1 leases; nothing was changed"
    vxlan.refused(MODULE, text, "flannel_subnet")
    # Nor if there are none at all: as if somebody had emptied etcd.
    vxlan.etcd.delete(PREFIX + "/subnets/", prefix=True)
    vxlan.refused(MODULE, "among its 0 leases", allow_no_peers=True)
    vxlan.etcd.delete(PREFIX + "/config")
    vxlan.refused(MODULE, "no network config")
    assert reached(vxlan) == entries((7, mac(7), "172.21.1.7"))


def test_the_last_peer_is_only_removed_on_request(vxlan: Overlay) -> None:
    vxlan.unchanged(MODULE)
    peer(vxlan, 7)
    vxlan.run(MODULE)
    vxlan.etcd.delete(PREFIX + "/subnets/10.5.7.0-24")
    vxlan.refused(MODULE, "nothing was removed", "allow_no_peers")
    vxlan.converge(MODULE, allow_no_peers=True)
    assert reached(vxlan) == []


@pytest.mark.matrix
def test_without_etcd_nothing_is_changed_and_a_snapshot_does_instead(vxlan: Overlay) -> None:
    peer(vxlan, 7)
    info = vxlan.run("flannel_subnet_info")
    vxlan.run(MODULE)
    peer(vxlan, 8)
    later = vxlan.run("flannel_subnet_info")
    vxlan.etcd.stop()
    endpoint = vxlan.etcd.endpoints[0]
    for module in (MODULE, "flannel_subnet", "flannel_subnet_info", "flannel_network"):
        arguments = {"network": "10.5.0.0/16"} if module == "flannel_network" else {}
        message = vxlan.refused(module, endpoint + ": connection refused", **arguments)
        assert len(message) < 300
    vxlan.refused(MODULE, "connection refused", state="absent")
    assert reached(vxlan) == entries((7, mac(7), "172.21.1.7"))

    names = ("config", "leases", "revision")
    vxlan.unchanged(MODULE, snapshot={name: info[name] for name in names})
    done = vxlan.converge(MODULE, snapshot={name: later[name] for name in names})
    assert (done["peers"], done["revision"]) == (2, later["revision"])
    assert reached(vxlan) == entries((7, mac(7), "172.21.1.7"), (8, mac(8), "172.21.1.8"))
    empty = {"config": info["config"], "leases": []}
    vxlan.refused(MODULE, "no lease of this host", snapshot=empty)
    vxlan.run(MODULE, state="absent", snapshot={name: info[name] for name in names})
    assert reached(vxlan) == []
    vxlan.etcd.start()
    assert vxlan.run(MODULE)["peers"] == 2


def test_check_mode_before_anything_is_there(bare: Overlay) -> None:
    """What site.yml --check tells of a host that has neither lease nor device."""
    bare.put_lease("10.5.7.0/24", vxlan_lease("172.21.1.7", mac(7)))
    network = {"network": "10.5.0.0/16", "backend": {"type": "vxlan"}}
    config = bare.run("flannel_network", check=True, **network)["config"]
    lease = bare.run("flannel_subnet", check=True, planned={"config": config})["lease"]
    told = bare.run(MODULE, check=True, planned={"config": config, "leases": [lease]})
    assert told["peers"] == 1
    bare.run("flannel_network", **network)
    lease = bare.run("flannel_subnet")["lease"]
    bare.refused_for_real(MODULE, "device flannel.1 does not exist; make it with vxlan_vtep first")
    bare.make_vtep(lease["vtep_mac"])
    done = bare.run(MODULE)
    assert (done["diff"], done["peers"]) == (told["diff"], told["peers"])


def test_every_bad_option_is_named_and_nothing_is_changed(vxlan: Overlay) -> None:
    peer(vxlan, 7)
    config = {"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}
    vxlan.each_refused(
        MODULE,
        {},
        [
            ("interface", "eth9", "eth0 172.21.0.11/16"),
            ("interface_regex", "(", "not a regular expression"),
            ("can_reach", "somewhere", "not an IP address"),
            ("public_ip", "fd00::1", "not an IPv4 address"),
            ("host_id", "two\nlines", "not printable"),
            ("hostname", "x" * 300, "not printable"),
            ("allow_no_peers", "perhaps", "unable to convert to bool"),
            ("state", "gone", "must be one of"),
            ("snapshot", {}, "missing"),
            ("snapshot", {"config": config}, "leases"),
            ("snapshot", {"config": {}, "leases": []}, "snapshot.config: Network is required"),
            ("snapshot", {"config": config, "leases": [{}]}, "snapshot.leases[0]"),
            ("snapshot", {"config": config, "leases": ["x"]}, "leases"),
            ("snapshot", {"config": config, "leases": [], "revision": "new"}, "revision"),
            ("snapshot", {"config": config, "leases": [], "age": 1}, "age"),
            *ETCD_CASES,
        ],
    )
    vxlan.each_refused(MODULE, {"interface": "eth0"}, [("interface_regex", "e.*", "exclusive")])


# --- udp ------------------------------------------------------------------------------------------


@pytest.fixture
def udp(bare: Overlay, tmp_path: Path) -> t.Iterator[Overlay]:
    """As tun_relay leaves a host."""
    host = bare.host
    bare.etcd.put(PREFIX + "/config", UDP)
    bare.run("flannel_subnet", subnet="10.5.1.0/24")
    settings = {
        "device": "flannel0",
        "address": "10.5.1.0",
        "subnet": "10.5.1.0/24",
        "network": "10.5.0.0/16",
        "listen": host.address,
        "mtu": 1472,
        "workers": 1,
        "table_file": "/etc/flatnet/relay-table.json",
    }
    (host.etc / "flatnet").mkdir(exist_ok=True)
    (host.etc / "flatnet/relay.json").write_text(json.dumps(settings))
    for line in (
        "tuntap add flannel0 mode tun multi_queue vnet_hdr",
        "addr add 10.5.1.0/32 dev flannel0",
        "link set flannel0 up",
        "route add 10.5.0.0/16 dev flannel0 proto 110",
    ):
        ip(host, line)
    (tmp_path / "flatnet").symlink_to(CORE)
    relay = Running(
        host, [PYTHON, "-m", "flatnet.relay.command", "run"], {"PYTHONPATH": str(tmp_path)}
    )
    try:
        wait(lambda: in_use(bare) is not None or not relay.alive, "the relay")
        yield bare
        assert relay.alive, relay.said()
    finally:
        relay.stop()


def in_use(overlay: Overlay) -> int | None:
    """How many peers the running relay has."""
    try:
        found = control.ask(str(overlay.host.run / "flatnet-relay/control"), "status")
    except control.RelayUnavailable:
        return None
    return int(found["table"]["peers"])


def relayed(overlay: Overlay) -> list[t.Any]:
    path = overlay.host.etc / "flatnet/relay-table.json"
    return json.loads(path.read_text())["peers"] if path.exists() else []


def udp_peer(overlay: Overlay, number: int, **own: t.Any) -> None:
    value: dict[str, t.Any] = {"PublicIP": "172.21.1.%d" % number, "PublicIPv6": None}
    if own:
        value["Flatnet"] = {"HostID": "%032x" % number, "Hostname": "h%d" % number, **own}
    overlay.put_lease("10.5.%d.0/24" % number, json.dumps(value))


def test_with_udp_peers_are_lines_of_the_relays_table(udp: Overlay) -> None:
    udp_peer(udp, 7)
    udp_peer(udp, 8, Vector=1)
    udp_peer(udp, 9, Vector="many")  # costs it its vectors, not its lease
    kernel = udp.kernel().splitlines()
    done = udp.converge(MODULE)
    assert (done["peers"], done["unused"], done["device"]) == (3, [], "flannel0")
    assert "relay 10.5.8.0/24 to 172.21.1.8, vector 1" in done["diff"]["after"]
    assert relayed(udp) == [
        ["10.5.7.0/24", "172.21.1.7", 0],
        ["10.5.8.0/24", "172.21.1.8", 1],
        ["10.5.9.0/24", "172.21.1.9", 0],
    ]
    assert in_use(udp) == 3
    assert [line for line in udp.kernel().splitlines() if not line.startswith("{")] == kernel
    udp_peer(udp, 9, Vector=1)
    udp.etcd.delete(PREFIX + "/subnets/10.5.7.0-24")
    done = udp.converge(MODULE)
    assert "relay 10.5.7.0/24" in done["diff"]["before"]
    assert [each[0] for each in relayed(udp)] == ["10.5.8.0/24", "10.5.9.0/24"]
    assert in_use(udp) == 2
    udp.converge(MODULE, state="absent")
    assert relayed(udp) == []
    assert in_use(udp) == 0
    assert "10.5.0.0/16 dev flannel0" in udp.kernel()
    udp.unchanged(MODULE, state="absent")


def test_with_udp_missing_information_takes_nobody_out_of_the_table(udp: Overlay) -> None:
    udp_peer(udp, 7)
    udp.converge(MODULE)
    udp.put_lease("10.5.7.0/24", "{garbage")
    udp.unchanged(MODULE)
    udp.etcd.delete(PREFIX + "/subnets/10.5.7.0-24")
    udp.refused(MODULE, "its relay has 1", "allow_no_peers")
    udp.converge(MODULE, allow_no_peers=True)
    assert relayed(udp) == []
    # A table that nobody can read is one that holds nothing.
    (udp.host.etc / "flatnet/relay-table.json").write_text("{")
    udp_peer(udp, 8)
    udp.converge(MODULE)
    assert [each[0] for each in relayed(udp)] == ["10.5.8.0/24"]


def test_with_udp_a_relay_that_was_not_told_of_its_table_is(udp: Overlay) -> None:
    """The file is right, and the relay uses what was there before: that is a change."""
    udp_peer(udp, 7)
    udp.converge(MODULE)
    path = udp.host.etc / "flatnet/relay-table.json"
    socket = str(udp.host.run / "flatnet-relay/control")
    lose_reload(path, socket)
    wanted = config.load_table(str(path)).digest
    assert control.ask(socket, "summary")["table"]["digest"] != wanted
    planned = udp.run(MODULE, check=True)
    done = udp.run(MODULE)
    assert planned["changed"]
    assert done["changed"]
    assert planned["diff"] == done["diff"]
    assert "revision" in done["diff"]["before"]
    assert control.ask(socket, "summary")["table"]["digest"] == wanted
    udp.unchanged(MODULE)


def test_check_mode_before_the_relay_is_there(bare: Overlay) -> None:
    bare.etcd.put(PREFIX + "/config", UDP)
    bare.run("flannel_subnet", subnet="10.5.1.0/24")
    udp_peer(bare, 7)
    before = bare.state()
    planned = bare.run(MODULE, check=True)
    assert planned["changed"]
    assert planned["diff"]["after"] == "relay 10.5.7.0/24 to 172.21.1.7, vector 0\n"
    assert bare.state() == before
    bare.refused_for_real(MODULE, "make it with tun_relay first")


def test_what_the_kernel_refuses_for_one_lease_fails_alone_and_is_named(vxlan: Overlay) -> None:
    """Here since the next hop is an address of the host itself, which no lease tells of."""
    for number in (7, 8, 9):
        peer(vxlan, number)
    ip(vxlan.host, "addr add 10.5.8.0/32 dev lo scope host")
    try:
        done = vxlan.attempt(MODULE)
        assert done["failed"]
        assert done["changed"]
        assert "the kernel refuses what 1 peers need: " in done["msg"]
        assert "lease 10.5.8.0/24 of 172.21.1.8: add route 10.5.8.0/24" in done["msg"]
        assert "Invalid argument (EINVAL)" in done["msg"]
        right = entries((7, mac(7), "172.21.1.7"), (9, mac(9), "172.21.1.9"))
        assert reached(vxlan) == right
        again = vxlan.attempt(MODULE)
        assert (again["failed"], again["changed"]) == (True, False)
        assert reached(vxlan) == right
    finally:
        ip(vxlan.host, "addr del 10.5.8.0/32 dev lo")
    assert vxlan.run(MODULE)["peers"] == 3
    assert len(reached(vxlan)) == 9


def test_only_what_the_network_leases_or_did_is_used(vxlan: Overlay) -> None:
    vxlan.put_lease("10.5.20.64/26", vxlan_lease("172.21.1.20", mac(20)))
    assert vxlan.run(MODULE)["peers"] == 0
    # Under a config that is newer than its key it is one of an older config.
    vxlan.etcd.put(PREFIX + "/config", VXLAN)
    assert vxlan.run(MODULE)["peers"] == 1
    vxlan.put_lease("10.5.20.128/26", vxlan_lease("172.21.1.21", mac(21)))
    done = vxlan.unchanged(MODULE)
    assert "its key is newer than the network's config" in done["unused"][0]
    info = vxlan.run("flannel_subnet_info")
    names = ("config", "leases", "revision", "config_revision")
    assert vxlan.unchanged(MODULE, snapshot={name: info[name] for name in names})["peers"] == 1
    # Whoever passes no revisions on cannot show that it was ever right.
    del info["config_revision"]
    plain = {name: info[name] for name in names[:3]}
    done = vxlan.attempt(MODULE, snapshot=plain)
    assert "nothing was removed" in done["msg"]


def test_no_lease_covers_a_resolver_of_the_host(vxlan: Overlay) -> None:
    peer(vxlan, 30)
    path = vxlan.host.etc / "resolv.conf"
    path.write_text("nameserver 10.5.30.53\n")
    try:
        done = vxlan.run(MODULE)
    finally:
        path.unlink()
    assert done["peers"] == 0
    assert "it covers 10.5.30.53, which is a resolver of this host" in done["unused"][0]
