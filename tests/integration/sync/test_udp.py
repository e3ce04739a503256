# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flatnet-sync and the relay's files, with hosts as tun_relay leaves them: whose word counts, and
how soon a relay knows of one who joins among thousands."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import Op
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.relay import config, control

from tests.integration.overlay import PREFIX
from tests.integration.programs import SUBNETS, Program, Programs
from tests.lab import Host
from tests.lab.waiting import wait

UDP = (
    '{"Network":"10.0.0.0/8","SubnetMin":"10.5.0.0","SubnetMax":"10.60.0.0","SubnetLen":24,'
    '"Backend":{"Type":"udp"}}'
)
TABLE, SETTINGS = "flatnet/relay-table.json", "flatnet/relay.json"
FIRST = {
    "device": "flannel0",
    "address": "10.5.0.0",
    "subnet": "10.5.0.0/24",
    "network": "10.0.0.0/8",
    "mtu": 1472,
    "user": "nobody",
    "table_file": "/etc/" + TABLE,
    "workers": 1,
}
MANY = 4000


def peer_lease(number: int) -> tuple[str, str]:
    high, low = divmod(number, 250)
    value = {"PublicIP": "172.22.%d.%d" % (high, low + 1), "PublicIPv6": None}
    return "10.%d.%d.0-24" % (16 + high, low), json.dumps(value)


def settings(host: Host) -> dict[str, t.Any]:
    try:
        found: dict[str, t.Any] = json.loads((host.etc / SETTINGS).read_text())
    except (OSError, ValueError):
        return {}
    return found


def table(host: Host) -> dict[str, list[t.Any]]:
    """Address and vector by subnet."""
    try:
        found = json.loads((host.etc / TABLE).read_text())
    except (OSError, ValueError):
        return {}
    return {subnet: rest for subnet, *rest in found["peers"]}


def vectors(host: Host) -> list[int]:
    return [each[1] for each in table(host).values()]


def write(path: Path, text: str) -> None:
    """Put a file in place whole: one that is half written would be damaged to who reads it then."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


@pytest.fixture
def fleet(programs: Programs) -> t.Iterator[Programs]:
    """Hosts as tun_relay left them, each with other settings than it should have by now."""
    for each in programs.begin(UDP, check_interval=1):
        host = each.host
        (host.etc / "flatnet").mkdir(exist_ok=True)
        (host.etc / SETTINGS).write_text(json.dumps({**FIRST, "listen": host.address}))
    for each in programs.all:
        each.start()
    for each in programs.all:
        wait(lambda each=each: vectors(each.host) == [1, 1], each.host.name)  # type: ignore[misc]
    yield programs
    programs.end()


@pytest.fixture
def program(fleet: Programs) -> Program:
    return fleet.all[0]


def test_what_it_makes_of_leases(fleet: Programs, program: Program) -> None:
    leases = fleet.leases()
    assert [each["Flatnet"]["Vector"] for each in leases.values()] == [1, 1, 1]
    own = next(n for n, each in leases.items() if each["PublicIP"] == program.host.address)
    others = {n.replace("-", "/"): [v["PublicIP"], 1] for n, v in leases.items() if n != own}
    assert table(program.host) == others
    found = settings(program.host)
    assert found["subnet"] == own.replace("-", "/")
    assert found["address"] == own.partition("-")[0]
    assert "10.0.0.0/8 proto 110" in program.ip("route show dev flannel0").replace("flatnet", "110")
    link = program.ip("-d link show flannel0")
    for words in ("mtu 1472", "persist on user nobody", "multi_queue", "vnet_hdr on"):
        assert words in link, link
    assert found["address"] + "/32" in program.ip("addr show flannel0")


def test_what_the_playbook_sets_is_not_overruled(fleet: Programs, program: Program) -> None:
    path = program.host.etc / SETTINGS
    write(path, json.dumps({**settings(program.host), "workers": 3, "vector": False}))
    checks = program.told("updated", 0)
    write(path, json.dumps({**settings(program.host), "port": 9999, "mtu": 1000}))
    wait(lambda: settings(program.host).get("mtu") == 1472, "the repair")
    found = settings(program.host)
    assert (found["workers"], found["vector"], found.get("port", 8285)) == (3, False, 8285)
    wait(lambda: "settings /etc/flatnet/relay.json" in program.repairs(), "the status")
    assert program.told("updated", 1) >= checks
    # Nor is what its lease says, which the playbook writes as well.
    name, value = own_lease(fleet, program)
    assert value["Flatnet"]["Vector"] == 1
    del value["Flatnet"]["Vector"]
    fleet.put(name, json.dumps(value))
    other = fleet.all[1].host
    subnet = name.replace("-", "/")
    wait(lambda: table(other)[subnet] == [program.host.address, 0], "no vectors")
    checked(program)
    assert "Vector" not in own_lease(fleet, program)[1]["Flatnet"]


def checked(program: Program) -> None:
    """Wait until it has looked at everything again, and has said so."""
    begin = time.time()
    wait(lambda: program.told("updated", 0) > begin + 1.5, "another look")


def own_lease(fleet: Programs, program: Program) -> tuple[str, dict[str, t.Any]]:
    leases = fleet.leases().items()
    return next(each for each in leases if each[1]["PublicIP"] == program.host.address)


def test_a_lease_that_a_flanneld_wrote_over_says_again_what_it_said(
    fleet: Programs, program: Program
) -> None:
    name, before = own_lease(fleet, program)
    fleet.put(name, json.dumps({"PublicIP": before["PublicIP"], "PublicIPv6": None}))
    wait(lambda: own_lease(fleet, program)[1] == before, "the lease as it was")


@pytest.mark.parametrize("damage", ["", "{", None])
def test_damaged_files_are_written_anew(program: Program, damage: str | None) -> None:
    before = program.dump()
    for file, read in ((SETTINGS, settings), (TABLE, table)):
        path = program.host.etc / file
        wanted = read(program.host)
        path.unlink() if damage is None else path.write_text(damage)
        wait(lambda read=read, wanted=wanted: read(program.host) == wanted, file)  # type: ignore[misc]
    wait(lambda: program.told("errors") == [], "the status")
    assert program.dump() == before


def replace_device(program: Program, line: str) -> None:
    """Under the host's lock, or the service has made it anew before this makes another."""
    words = "ip link del flannel0 && ip " + line
    program.host.exec(["flock", "/run/flatnet/lock", "sh", "-c", words], check=True)


@pytest.mark.parametrize(
    "line",
    [
        "tuntap add flannel0 mode tun user nobody",
        "tuntap add flannel0 mode tun user daemon multi_queue vnet_hdr",
        "tuntap add flannel0 mode tun multi_queue vnet_hdr pi",
    ],
)
def test_a_device_of_another_make_is_made_anew(program: Program, line: str) -> None:
    before = program.dump()
    replace_device(program, line)
    program.becomes(before)
    wait(lambda: "add link flannel0" in program.repairs(), "the status")


def test_a_device_of_another_kind_is_somebody_elses(program: Program) -> None:
    before = program.dump()
    program.stop()
    replace_device(program, "link add flannel0 type bridge")
    program.start()
    wait(lambda: "not a tun" in program.errors(), "the status")
    assert "bridge" in program.ip("-d link show flannel0")
    program.ip("link del flannel0")
    program.becomes(before)
    wait(lambda: program.told("errors") == [], "the status")


def test_without_settings_nothing_is_torn_down(program: Program) -> None:
    """A host on which tun_relay has yet to run again, say."""
    before = program.dump()
    program.stop()
    (program.host.etc / SETTINGS).unlink()
    program.start()
    assert "relay.json" in program.errors()
    assert program.dump() == before
    # And what is there comes into use without a word.
    write(program.host.etc / SETTINGS, json.dumps({**FIRST, "listen": program.host.address}))
    wait(lambda: program.told("errors") == [], "the status")
    wait(lambda: settings(program.host)["subnet"] == program.told("subnet"), "the settings")
    assert program.dump() == before


def test_garbage_and_an_empty_etcd_take_nobody_away(fleet: Programs, program: Program) -> None:
    name, value = peer_lease(7)
    fleet.put(name, value)
    subnet = name.replace("-", "/")
    wait(lambda: subnet in table(program.host), "the peer")
    fleet.put(name, "{garbage")
    wait(lambda: name in str(program.told("unused")), "the status")
    assert subnet in table(program.host)
    program.stop()
    before = table(program.host)
    fleet.inside(fleet.client.delete_prefix, PREFIX + "/subnets/")
    program.start()
    checked(program)
    assert table(program.host).items() >= {k: v for k, v in before.items() if k != subnet}.items()


def test_a_boot_without_etcd(fleet: Programs, program: Program) -> None:
    wait(program.state.exists, "the state")
    before, wanted = program.dump(), table(program.host)
    wait(lambda: all(s.replace("/", "-") in program.state.read_text() for s in wanted))
    wait(lambda: program.state.read_text().count("Vector") == len(wanted) + 1)
    fleet.etcd.kill()
    program.kill()
    fleet.lab.reboot(program.host)
    (program.host.etc / TABLE).unlink()
    assert "flannel0" not in str(program.dump())
    done = program.run("restore")
    assert done.returncode == 0, done.stderr
    assert program.dump() == before
    assert table(program.host) == wanted
    assert "changes" not in program.run("restore").stderr


def test_random_events(fleet: Programs) -> None:
    """Every host's table is what the leases say, whatever happened meanwhile."""
    seed = int(os.environ.get("FLATNET_SEED", "0")) or random.randrange(1 << 32)
    chance = random.Random(seed)
    print("seed", seed)
    model: dict[str, list[t.Any]] = {}

    def lease() -> tuple[str, str]:
        number = chance.randrange(40)
        name, text = peer_lease(number)
        value = json.loads(text)
        value["PublicIP"] = "172.22.%d.%d" % (number, chance.randrange(1, 4))
        vector = chance.randrange(3)
        if vector:
            value["Flatnet"] = {"HostID": "%032x" % number, "Hostname": "h", "Vector": vector}
        model[name.replace("-", "/")] = [value["PublicIP"], vector]
        return name, json.dumps(value)

    def put() -> None:
        fleet.put(*lease())

    def burst() -> None:
        found = dict(lease() for _each in range(12))
        fleet.txn(*(Op.put(SUBNETS + name, value) for name, value in found.items()))

    def leave() -> None:
        if model:
            subnet = chance.choice(sorted(model))
            del model[subnet]
            fleet.delete(subnet.replace("/", "-"))

    def garbage() -> None:
        # Keeps its peer until somebody says something that can be understood.
        if model:
            fleet.put(chance.choice(sorted(model)).replace("/", "-"), "{garbage")

    def any_program() -> Program:
        return chance.choice(fleet.all)

    def spoil() -> None:
        path = any_program().host.etc / TABLE
        path.write_text(chance.choice(["", "{", '{"peers":[]}', '{"peers":[["10.5.0.0/24"]]}']))

    def drift() -> None:
        words = chance.choice(["link del flannel0", "addr flush dev flannel0"])
        any_program().host.exec(["ip", *words.split()])

    def restart() -> None:
        each = any_program()
        each.kill()
        each.start()

    events = [put] * 6 + [leave] * 3 + [burst, garbage, spoil, drift, restart]
    settled = (put, leave, burst)
    for turn in range(150):
        chance.choice(events)()
        if turn % 30 == 29:
            # What was spoilt while its file was spoilt as well is known to nobody: say it again.
            for name in list(model):
                value = {"PublicIP": model[name][0], "PublicIPv6": None}
                model[name][1] = 0
                fleet.put(name.replace("/", "-"), json.dumps(value))
            chance.choice(settled)()
            for each in fleet.all:
                wait(lambda each=each: same(fleet, each, model), f"{each.host.name} {seed}")  # type: ignore[misc]
                wait(lambda each=each: each.told("errors") == [], f"{each.host.name} {seed}")  # type: ignore[misc]
                wait(lambda each=each: whole(each), f"{each.host.name} {seed}")  # type: ignore[misc]


def whole(program: Program) -> bool:
    """Whether the device has its address and the network's route."""
    words = program.host.exec(["ip", "-4", "addr", "show", "flannel0"]).stdout
    routes = program.host.exec(["ip", "route", "show", "dev", "flannel0"]).stdout
    return settings(program.host)["address"] + "/32" in words and "10.0.0.0/8" in routes


def same(fleet: Programs, program: Program, model: dict[str, list[t.Any]]) -> bool:
    hosts = {
        each.told("subnet"): [each.host.address, 1] for each in fleet.all if each is not program
    }
    return table(program.host) == {**model, **hosts}


def test_one_joins_thousands(fleet: Programs, program: Program) -> None:
    leases = [peer_lease(number) for number in range(MANY)]
    for first in range(0, MANY - 10, 100):
        fleet.txn(*(Op.put(SUBNETS + name, value) for name, value in leases[first : first + 100]))
    for name, _value in leases[-10:]:
        fleet.delete(name)
    host = program.host
    relay = subprocess.Popen(
        host.command(["/usr/bin/python3", "-m", "flatnet.relay.command", "run"]),
        env=program._environment(),
        stderr=subprocess.DEVNULL,
    )
    socket = str(host.run / "flatnet-relay/control")

    def in_use() -> int:
        try:
            found: int = control.ask(socket, "status")["table"]["peers"]
        except control.RelayUnavailable:
            return -1
        return found

    try:
        wait(lambda: in_use() == MANY - 10 + 2, "all of them")
        took = []
        for name, value in leases[-10:]:
            wanted = in_use() + 1
            began = time.monotonic()
            fleet.put(name, value)
            subnet = name.replace("-", "/")
            wait(lambda subnet=subnet: subnet in (host.etc / TABLE).read_text(), "the table")  # type: ignore[misc]
            written = time.monotonic()
            wait(lambda wanted=wanted: in_use() == wanted, "the table in use")  # type: ignore[misc]
            took.append((written - began, time.monotonic() - began))
    finally:
        relay.terminate()
        relay.wait(10)
    print("seconds until written, and in use:", sorted(took))
    revision = config.load_table(str(host.etc / TABLE)).revision
    wait(lambda: program.told("revision") == revision, "the status")
