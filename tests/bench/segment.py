# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Target 7: the module segment with 10,000 members and nothing to do, beside flannel_peers with as
many entries, by what they cost the host. Seconds are those of the whole task: the controller also
makes text of the members and sends it, where flannel_peers reads its peers from etcd."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

from tests.lab import Lab

from . import fleet, resident, service
from .inside import call
from .measure import Part, median, seconds, times
from .play import play

MEMBERS, HOSTS = 10000, 20
# A peer is three entries, a member of mode proxy two.
LIMIT = 1.0


def measure(name: str, quick: bool) -> Part:
    count = MEMBERS // 10 if quick else MEMBERS
    part = Part(f"A `segment` run with no change at {count:,} members on {HOSTS} hosts")
    repetitions = 3 if quick else 9
    peers = count * 2 // 3
    with Lab(name, hosts=1) as lab:
        host = lab.hosts[0]
        resident.prepare(host, lab)
        service.fill(host, lab, 0, peers)
        call(host, "service", "start", peers=peers)
        tasks = [
            {"name": "ping", "ansible.builtin.ping": {}},
            {
                "name": "peers",
                "flatnet.overlay.flannel_peers": {
                    "etcd_endpoints": lab.etcd.endpoints,
                    "etcd_prefix": fleet.PREFIX,
                },
            },
            # As the role has it.
            {
                "name": "segment",
                "flatnet.overlay.segment": {
                    "name": "{{ item }}",
                    "vni": "{{ segment.vni }}",
                    "mode": "{{ segment.mode }}",
                    "members": "{{ segment.members | to_json }}",
                    "vteps": "{{ vteps }}",
                    "host": "host1",
                },
                "loop": "{{ segments | map(attribute='name') }}",
                "vars": {"segment": "{{ segments | selectattr('name', 'eq', item) | first }}"},
            },
        ]
        vteps = {"host1": host.address}
        vteps.update({f"host{number}": f"198.19.0.{number}" for number in range(2, HOSTS + 1)})
        variables = {"vteps": vteps, "segments": [segment(count)]}
        playbook = lab.directory / "segment.yml"
        plays = [
            {
                "hosts": "flatnet",
                "gather_facts": False,
                "vars": variables,
                "tasks": tasks * (repetitions + 1),
            }
        ]
        playbook.write_text(json.dumps(plays), encoding="utf-8")
        record = lab.directory / "cost.jsonl"
        cost = play(playbook, lab.inventory(), record)
        cpu = {task: median(each[1:]) for task, each in on_host(record).items()}
    if cost.changed != 1:
        raise RuntimeError("of all runs the first makes the segment; %d changed it" % cost.changed)
    # The first round fills the controller's caches, and makes the segment.
    took = {
        task: [each["seconds"] for each in cost.results if each["task"] == task][1:]
        for task in ("ping", "peers", "segment")
    }
    ping, others, own = (median(took[task]) for task in ("ping", "peers", "segment"))
    part.show("`ansible.builtin.ping`", seconds(ping))
    part.show(f"`flannel_peers` with {peers:,} peers, {peers * 3:,} entries", seconds(others))
    part.show(f"`segment`, {count * 2:,} entries", seconds(own))
    part.show("CPU of the host, `flannel_peers`", seconds(cpu["peers"]))
    part.show("CPU of the host, `segment`", seconds(cpu["segment"]))
    part.hold("ratio", cpu["segment"] / cpu["peers"], LIMIT, times)
    return part


def on_host(record: Path) -> dict[str, list[float]]:
    """By task, the CPU seconds on the one host, which is done with a task before the next one."""
    found: dict[str, list[float]] = {}
    spent = 0.0
    for line in record.read_text(encoding="utf-8").splitlines():
        each = json.loads(line)
        spent += each.get("cpu", 0.0)
        if "task" in each:
            found.setdefault(each["task"], []).append(spent)
            spent = 0.0
    return found


def segment(count: int) -> dict[str, t.Any]:
    """A segment in mode proxy, whose members are spread over the hosts."""
    members = [
        {
            "host": f"host{number % HOSTS + 1}",
            "mac": "02:%s:00" % number.to_bytes(4, "big").hex(":"),
            "addresses": ["10.100.%d.%d" % divmod(number, 256)],
        }
        for number in range(count)
    ]
    return {"name": "blue", "vni": 100, "mode": "proxy", "members": members}
