# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab from a shell: python3 -m tests.lab up demo."""

from __future__ import annotations

import argparse
import os
import sys
import time

from .lab import Lab
from .ping import table
from .system import LabError


def main() -> int:
    arguments = _parser().parse_args()
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces, so it must be run as root")
    return int(arguments.function(arguments) or 0)


def up(arguments: argparse.Namespace) -> None:
    begin = time.monotonic()
    lab = Lab(arguments.name, arguments.hosts, arguments.segments, arguments.etcd, arguments.mtu)
    with lab:
        path = lab.inventory()
        print(f"lab {lab.name}: {len(lab.hosts)} hosts in {time.monotonic() - begin:.1f} s")
        for host in lab.hosts:
            print(f"  {host.name:<9} {host.address:<15} segment {host.segment}  {host.netns}")
        print(f"  etcd      {', '.join(lab.etcd.endpoints) or 'none'}")
        print(f"  inventory {path}", flush=True)
        lab.keep()


def down(arguments: argparse.Namespace) -> None:
    if arguments.name not in Lab.names():
        print(f"lab {arguments.name}: not there")
        return
    # What is recorded on disk counts, not how many hosts there are.
    Lab(arguments.name).down()
    print(f"lab {arguments.name}: gone")


def show(_arguments: argparse.Namespace) -> None:
    for name in Lab.names():
        lab = Lab.load(name)
        print(f"{name}: {len(lab.hosts)} hosts, {lab.segments} segments, {len(lab.pods)} pods")


def execute(arguments: argparse.Namespace) -> None:
    lab = Lab.load(arguments.name)
    nodes = {node.name: node for node in [*lab.hosts, *lab.pods]}
    if arguments.node not in nodes:
        raise LabError(f"lab {lab.name!r} has no node {arguments.node!r}: {', '.join(nodes)}")
    command = nodes[arguments.node].command(arguments.command or ["bash"])
    os.execvp(command[0], command)


def etcdctl(arguments: argparse.Namespace) -> None:
    print(Lab.load(arguments.name).etcd.ctl(*arguments.command), end="")


def ping(arguments: argparse.Namespace) -> int:
    lab = Lab.load(arguments.name)
    nodes = lab.pods if lab.pods and not arguments.hosts else lab.hosts
    matrix = lab.ping_matrix(nodes, size=arguments.size, df=arguments.df)
    print(table(matrix))
    return 0 if all(matrix.values()) else 1


def inventory(arguments: argparse.Namespace) -> None:
    print(Lab.load(arguments.name).inventory())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.lab",
        description="Fleets of network namespaces on this machine, each with an underlay and etcd.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    one = commands.add_parser("up", help="build a lab")
    one.set_defaults(function=up)
    one.add_argument("name")
    one.add_argument("--hosts", type=int, default=3)
    one.add_argument("--segments", type=int, default=1, help="underlay segments, routed (1)")
    one.add_argument("--etcd", type=int, default=1, help="etcd members: 0, 1 or 3 (1)")
    one.add_argument("--mtu", type=int, default=1500, help="of the underlay (1500)")

    one = commands.add_parser("down", help="take a lab down, also what is left of one")
    one.set_defaults(function=down)
    one.add_argument("name")

    one = commands.add_parser("list", help="show the labs that exist")
    one.set_defaults(function=show)

    one = commands.add_parser("exec", help="run a command on a host or in a pod (a shell)")
    one.set_defaults(function=execute)
    one.add_argument("name")
    one.add_argument("node", help="host1, host1-pod1 …")
    one.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")

    one = commands.add_parser("etcdctl", help="run etcdctl on the lab's etcd")
    one.set_defaults(function=etcdctl)
    one.add_argument("name")
    one.add_argument("command", nargs=argparse.REMAINDER, metavar="-- ARGUMENT")

    one = commands.add_parser("ping", help="ping all pairs of pods, or of hosts if there are none")
    one.set_defaults(function=ping)
    one.add_argument("name")
    one.add_argument("--hosts", action="store_true", help="hosts, although there are pods")
    one.add_argument("--size", type=int, help="length of the IP packets")
    one.add_argument("--df", action="store_true", help="forbid fragmentation")

    one = commands.add_parser("inventory", help="write the lab's inventory, print its path")
    one.set_defaults(function=inventory)
    one.add_argument("name")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as exc:
        sys.exit(f"error: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)
