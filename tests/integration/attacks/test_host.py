# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is prepared with, against bad luck: runs that are killed at any step."""

from __future__ import annotations

import shutil
import typing as t

import pytest

from tests.integration import firewalld
from tests.integration.interrupted import points, run_steps
from tests.integration.modules import Result, run_module
from tests.lab import Host, Lab

MODULE = "host_firewall"
VXLAN = {"network": "10.5.0.0/16", "port": 8472, "interface": "eth0"}
OTHER = {"network": "10.6.0.0/16", "port": 8285, "interface": "eth0"}
ABSENT = {**VXLAN, "state": "absent"}

CONF = """\
flush ruleset

table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		iif "lo" accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
"""


# How earlier versions opened the same: by the sources of packets alone.
FORMER_RULES = "".join(
    f'insert rule inet filter {chain} {text} comment "flatnet.overlay: {text}"\n'
    for chain, text in (
        ("input", "udp dport 8472 accept"),
        ("input", "ip saddr 10.5.0.0/16 icmp type echo-request accept"),
        ("forward", "ip saddr 10.5.0.0/16 accept"),
        ("forward", "ip daddr 10.5.0.0/16 accept"),
    )
)
FORMER_SOURCE = ("--zone=trusted", "--add-source=10.5.0.0/16")
FORMER: dict[str, t.Any] = {}


@pytest.fixture(scope="module")
def host(lab_factory: t.Callable[..., Lab]) -> Host:
    return lab_factory(hosts=1).hosts[0]


def converge(host: Host, arguments: t.Mapping[str, t.Any]) -> Result:
    result = run_module(host, MODULE, arguments)
    assert not result["failed"], result
    return result


# --- interruptions --------------------------------------------------------------------------------


class Nftables:
    """The files that nft loads at boot, and what it has loaded."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.conf = host.etc / "nftables.conf"
        self.included = host.etc / "nftables.d/flatnet.nft"

    def begin(self, arguments: t.Mapping[str, t.Any]) -> tuple[str, ...]:
        """As after a run that nothing interrupted."""
        self.conf.write_text(CONF)
        self.included.unlink(missing_ok=True)
        if arguments is FORMER:
            self.conf.write_text(CONF + 'include "/etc/nftables.d/flatnet.nft"\n')
            self.included.parent.mkdir(exist_ok=True)
            self.included.write_text(FORMER_RULES)
            self.boot()
            return self.state()
        self.boot()
        converge(self.host, arguments)
        return self.state()

    def state(self) -> tuple[str, ...]:
        rules = self.host.exec(["nft", "list", "ruleset"], check=True).stdout
        included = self.included.read_text() if self.included.exists() else "none"
        return (self.conf.read_text(), included, "\n".join(sorted(rules.splitlines())))

    def valid(self) -> None:
        """nft would load the files."""
        self.host.exec(["nft", "-c", "-f", "/etc/nftables.conf"], check=True)

    def boot(self) -> None:
        """Whatever fails to load leaves the host without a firewall."""
        self.host.exec(["nft", "flush", "ruleset"], check=True)
        self.host.exec(["nft", "-f", "/etc/nftables.conf"], check=True)


@pytest.mark.parametrize("boots", [False, True])
@pytest.mark.parametrize(
    ("start", "end"),
    [
        (ABSENT, VXLAN),
        (VXLAN, ABSENT),
        (VXLAN, OTHER),
        (FORMER, VXLAN),
        (FORMER, ABSENT),
    ],
    ids=["add", "remove", "change", "from an earlier version", "remove an earlier version"],
)
def test_nftables_conf_can_be_loaded_wherever_a_run_is_killed(
    host: Host, start: dict[str, t.Any], end: dict[str, t.Any], boots: bool
) -> None:
    """Bad luck: a run is killed, or the machine boots, between two steps of opening, closing or
    changing the firewall. A removal that was interrupted left a nftables.conf that is not valid, so
    a host without firewall at boot."""
    nftables = Nftables(host)
    wanted = nftables.begin(end)
    for steps in points():
        nftables.begin(start)
        ended = run_steps(host, MODULE, end, steps)
        nftables.valid()
        if boots:
            nftables.boot()
        converge(host, end)
        assert nftables.state() == wanted, steps
        assert not converge(host, end)["changed"]
        nftables.valid()
        if ended:
            break
    assert steps >= 2


@pytest.mark.parametrize("end", [VXLAN, ABSENT], ids=["present", "absent"])
def test_what_an_interrupted_removal_of_an_earlier_version_left_is_mended(
    host: Host, end: dict[str, t.Any]
) -> None:
    """Bad luck: nftables.conf includes a file that is gone, so that nothing was loaded at boot."""
    nftables = Nftables(host)
    wanted = nftables.begin(end)
    nftables.begin(VXLAN)
    nftables.included.unlink()
    host.exec(["nft", "flush", "ruleset"], check=True)
    converge(host, end)
    nftables.valid()
    nftables.boot()
    converge(host, end)
    assert nftables.state() == wanted


def test_a_nftables_conf_that_nft_would_not_load_is_never_written(host: Host) -> None:
    """Bad luck: what runs has chains that the file does not have, so that rules for them would keep
    the whole file from loading."""
    nftables = Nftables(host)
    nftables.begin(ABSENT)
    nftables.conf.write_text(CONF.replace("chain forward", "chain passing"))
    before = nftables.state()
    result = run_module(host, MODULE, VXLAN)
    assert "/etc/nftables.conf: nft would not load it" in result["msg"]
    assert nftables.state() == before
    nftables.valid()


@pytest.mark.parametrize(
    ("start", "end", "least"),
    [(ABSENT, VXLAN, 5), (VXLAN, ABSENT, 5), (FORMER, VXLAN, 5), (FORMER, ABSENT, 4)],
    ids=["add", "remove", "from an earlier version", "remove an earlier version"],
)
def test_firewalld_is_right_after_the_run_that_follows_one_that_was_killed(
    host: Host, start: dict[str, t.Any], end: dict[str, t.Any], least: int
) -> None:
    """Bad luck: a run is killed between two of the commands that open or close firewalld. Once the
    source of an earlier version was gone from what lasts, each later run refused to reload, since
    that would lose this very source."""
    host.exec(["nft", "flush", "ruleset"], check=True)
    lasting, kept = host.etc / "firewalld", host.directory / "firewalld"

    def state() -> dict[str, str]:
        files = (path for path in lasting.rglob("*.xml") if path.suffix == ".xml")
        return {path.name: "".join(sorted(path.read_text().splitlines(True))) for path in files}

    def begin() -> None:
        converge(host, ABSENT if start is FORMER else start)
        if start is FORMER:
            firewalld.tell(host, "--permanent", *FORMER_SOURCE)
            firewalld.tell(host, "--permanent", "--zone=public", "--add-port=8472/udp")

    with firewalld.running(host):
        # firewalld makes a file of a zone when that is changed first, and keeps it.
        begin()
        converge(host, end)
        wanted = state()
        begin()
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(lasting, kept)
        for steps in points():
            firewalld.tell(host, "--reload")
            ended = run_steps(host, MODULE, end, steps)
            # It compares what runs and what lasts with what should be.
            converge(host, end)
            assert not converge(host, end)["changed"]
            assert state() == wanted, steps
            if ended:
                break
            shutil.rmtree(lasting)
            shutil.copytree(kept, lasting)
    assert steps >= least


def test_files_are_right_after_the_run_that_follows_one_that_was_killed(host: Host) -> None:
    """Bad luck: a run is killed between two steps of writing and removing files. Each is the old or
    the new one, and none other is left."""
    folder = host.etc / "prepared"
    old = {"a": "old", "b": "old"}
    new = {"b": "new", "c": "new"}

    def files(contents: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"path": f"/etc/prepared/{name}", "content": contents[name], "mode": "0600"}
            if name in contents
            else {"path": f"/etc/prepared/{name}", "state": "absent"}
            for name in "abc"
        ]

    def there() -> dict[str, str]:
        return {path.name: path.read_text() for path in folder.iterdir()}

    for steps in points():
        shutil.rmtree(folder, ignore_errors=True)
        run_module(host, "host_files", {"files": files(old)})
        assert there() == old
        ended = run_steps(host, "host_files", {"files": files(new)}, steps)
        for name, text in there().items():
            assert name.startswith(".") or text in (old.get(name), new.get(name))
        assert not run_module(host, "host_files", {"files": files(new)})["failed"]
        assert there() == new
        assert not run_module(host, "host_files", {"files": files(new)})["changed"]
        if ended:
            break
    assert steps >= 3
