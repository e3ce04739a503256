# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one write to the network's config does to hosts whose relays carry the packets: see
test_config.py. Leases of udp and of alloc look the same."""

from __future__ import annotations

import json
import typing as t

import pytest

from tests.integration.overlay import PREFIX
from tests.integration.playbooks import Ansible, Site
from tests.integration.programs import Pinging
from tests.lab import Host, Lab
from tests.lab.waiting import wait

SYNC = "/etc/flatnet/sbin/flatnet-sync"
CONFIG = PREFIX + "/config"


@pytest.fixture(scope="module")
def built(lab_factory: t.Callable[..., Lab], ansible: Ansible) -> Site:
    site = Site(lab_factory(hosts=3), ansible)
    site.play(flatnet_backend={"type": "udp"}, flatnet_sync="service", flatnet_sync_interval=1)
    site.add_pods()
    assert site.lost() == []
    return site


@pytest.fixture
def site(built: Site) -> t.Iterator[Site]:
    written = built.lab.etcd.get_prefix(CONFIG)[CONFIG]
    yield built
    built.lab.etcd.put(CONFIG, written)


def status(host: Host) -> dict[str, t.Any]:
    found: dict[str, t.Any] = json.loads(host.exec([SYNC, "status", "--json"], check=True).stdout)
    return found


def told(host: Host) -> str:
    """The error about the config."""
    errors = status(host)["errors"]
    return next((each["text"] for each in errors if each["what"] == "config"), "")


def route(host: Host) -> str:
    return host.exec(["ip", "route", "show", "10.5.0.0/16"], check=True).stdout


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("alloc", "the former backend's relay is still on this host"),
        ("vxlan", "lease is for the backend udp or alloc, the network's is vxlan"),
        ("host-gw", "lease is for the backend udp or alloc, the network's is host-gw"),
    ],
)
def test_another_backend_takes_no_peer_away(site: Site, kind: str, reason: str) -> None:
    """A writer of the config: relays go on, and the status says why, also that of a process that
    is started then."""
    etcd, routes = site.lab.etcd, [route(host) for host in site.hosts]
    assert all("flannel0" in each for each in routes)
    written = etcd.get_prefix(CONFIG)[CONFIG]
    pinging = Pinging(site.lab)
    etcd.put(CONFIG, json.dumps({**json.loads(written), "Backend": {"Type": kind}}))
    for host in site.hosts:
        wait(lambda host=host: reason in told(host), "the error")  # type: ignore[misc]
        assert "the former config of the network, 10.5.0.0/16 over udp" in told(host)
    assert pinging.lost() == []
    # What drifts is put right.
    host = site.hosts[0]
    host.exec(["ip", "route", "del", "10.5.0.0/16"], check=True)
    wait(lambda: route(host) == routes[0], "the route")
    begun = status(host)["started"]
    host.exec(["kill", "-9", str(status(host)["pid"])], check=True)
    wait(lambda: status(host)["started"] > begun and reason in told(host), "the next process")
    assert [route(each) for each in site.hosts] == routes
    wait(lambda: site.lost() == [], "the pods")
    etcd.put(CONFIG, written)
    for each in site.hosts:
        wait(lambda each=each: status(each)["errors"] == [], "the end of the error")  # type: ignore[misc]
    assert [route(each) for each in site.hosts] == routes
    assert site.lost() == []
