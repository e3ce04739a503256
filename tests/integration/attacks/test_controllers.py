# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad luck with people: two controllers that run site.yml on the same hosts at once."""

from __future__ import annotations

import json
import os
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration import modules
from tests.integration.install.test_sync import NETWORK, Installed
from tests.integration.playbooks import Ansible, Run, Site
from tests.lab import Lab

ROUNDS = int(os.environ.get("FLATNET_ROUNDS", "1"))
HOSTS = int(os.environ.get("FLATNET_HOSTS", "3"))


def at_once(sites: t.Sequence[Site], playbook: str, **variables: t.Any) -> list[Run]:
    with ThreadPoolExecutor(len(sites)) as pool:
        runs = [pool.submit(site.play, playbook, code=None, **variables) for site in sites]
        return [run.result() for run in runs]


@pytest.fixture(params=range(ROUNDS))
def number(request: pytest.FixtureRequest) -> int:
    """Of the round; each has a fleet of its own."""
    return int(request.param)


@pytest.mark.parametrize("backend", ["vxlan", "udp"])
@pytest.mark.usefixtures("number")
def test_two_controllers_at_once(
    lab_factory: t.Callable[..., Lab], ansible: Ansible, backend: str
) -> None:
    """Two controllers at once, from bare hosts on: both succeed, and a third run changes nothing.
    Then they remove a host at once."""
    lab = lab_factory(hosts=HOSTS)
    sites = [Site(lab, ansible, sync="service", name=name) for name in ("a", "b")]
    variables = {"flatnet_backend": {"type": backend}}
    for run in at_once(sites, "playbooks/site.yml", **variables):
        assert run.failures() == {}, run.output
        assert run.code == 0, run.output
    assert sites[0].play(**variables).changed() == set()
    assert len(sites[0].leases()) == HOSTS

    for run in at_once(sites, "playbooks/remove.yml", flatnet_remove=f"host{HOSTS}"):
        assert run.code == 0, run.output
    assert len(sites[0].leases()) == HOSTS - 1


def run_from(installed: Installed, address: str) -> dict[str, t.Any]:
    """flatnet_sync as a controller with this address runs it."""
    done = installed.host.exec(
        [modules.PYTHON, "-c", modules.RUNNER],
        stdin=json.dumps([modules.MODULES + "flatnet_sync", [installed.arguments]]),
        env={**modules.environment(), "SSH_CONNECTION": f"{address} 5000 172.21.0.11 22"},
        timeout=300,
    )
    ((_status, output),) = json.loads(done.stdout)
    found: dict[str, t.Any] = json.loads(output)
    return found


def test_two_controllers_with_two_addresses(lab_factory: t.Callable[..., Lab]) -> None:
    """Both addresses are remembered in the host's settings, though neither controller knew of the
    other one when it began; then neither has anything to change."""
    lab = lab_factory(hosts=1)
    lab.etcd.put("/coreos.com/network/config", NETWORK)
    installed = Installed(lab, lab.hosts[0])
    addresses = ["172.21.0.7", "172.21.0.8"]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda address: run_from(installed, address), addresses))
    assert [each for each in results if each.get("failed")] == []
    settings = json.loads((installed.host.etc / "flatnet/sync.json").read_text(encoding="utf-8"))
    assert sorted(settings["controllers"]) == addresses
    assert [run_from(installed, address)["changed"] for address in addresses] == [False, False]
    installed.run(state="absent")
