# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Target 3: the module flannel_peers when there is nothing to do, beside ansible.builtin.ping."""

from __future__ import annotations

import json

from tests.lab import Lab

from . import fleet, resident, service
from .inside import call
from .measure import Part, median, seconds
from .play import play

PEERS, LIMIT = 4000, 0.7


def measure(name: str, quick: bool) -> Part:
    part = Part("A `flannel_peers` run with no change at 4,000 peers")
    repetitions = 3 if quick else 9
    with Lab(name, hosts=1) as lab:
        host = lab.hosts[0]
        resident.prepare(host, lab)
        service.fill(host, lab, 0, PEERS)
        call(host, "service", "start", peers=PEERS)
        tasks = [
            {"name": "ping", "ansible.builtin.ping": {}},
            {
                "name": "peers",
                "flatnet.overlay.flannel_peers": {
                    "etcd_endpoints": lab.etcd.endpoints,
                    "etcd_prefix": fleet.PREFIX,
                },
            },
        ]
        playbook = lab.directory / "peers.yml"
        plays = [{"hosts": "flatnet", "gather_facts": False, "tasks": tasks * (repetitions + 1)}]
        playbook.write_text(json.dumps(plays), encoding="utf-8")
        cost = play(playbook, lab.inventory(), lab.directory / "cost.jsonl")
    if cost.changed:
        raise RuntimeError("a run that should change nothing made %d changes" % cost.changed)
    # The first pair fills the controller's caches.
    took = {
        task: [each["seconds"] for each in cost.results if each["task"] == task][1:]
        for task in ("ping", "peers")
    }
    ping, peers = median(took["ping"]), median(took["peers"])
    part.show("`ansible.builtin.ping`", seconds(ping))
    part.show("`flannel_peers`", seconds(peers))
    part.hold("difference", peers - ping, LIMIT, seconds)
    return part
