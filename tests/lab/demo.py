# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``make demo`` runs: a lab, site.yml on it, a pod on each host, every pair of them pinged.

BACKEND names another backend than the inventory's, KEEP leaves the lab up.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from ipaddress import IPv4Interface
from pathlib import Path

from plugins.module_utils._flatnet.backends import known

from .host import Host, Pod
from .lab import Lab
from .ping import table
from .signals import unwinding
from .system import LabError

REPOSITORY = Path(__file__).resolve().parents[2]
INVENTORY = "inventories/demo"
NAME = "demo"
PREFIX = "/coreos.com/network"


def main() -> int:
    backend, keep = os.environ.get("BACKEND") or known.DEFAULT, bool(os.environ.get("KEEP"))
    if backend not in known.BACKENDS:
        raise LabError(f"BACKEND is {backend!r}; the demo knows {', '.join(known.BACKENDS)}")
    if os.geteuid() != 0:
        raise LabError("the demo makes network namespaces, so it must be run as root")
    lab = Lab(NAME, hosts=3)
    begin = time.monotonic()
    with unwinding():
        headline("Three hosts, each a network namespace, on one underlay, with a real etcd")
        try:
            lab.up()
            for host in lab.hosts:
                print(f"{host.name}  {host.address}  namespace {host.netns}")
            print(f"etcd   {lab.etcd.endpoint(1)}")
            failed = not show(lab, backend)
        except BaseException:
            # Also when interrupted, and with KEEP, since it is not what was to be looked at.
            # Not where the name is another lab's.
            if lab._claimed:
                headline("Taking the lab down")
                lab.down()
            raise
        if keep:
            print_hints(lab, backend)
        else:
            headline("Taking the lab down")
            lab.down()
        seconds = time.monotonic() - begin
        print(f"{'FAILED' if failed else 'done'} after {seconds:.0f} s", flush=True)
    return int(failed)


def show(lab: Lab, backend: str) -> bool:
    """Everything between up and down; whether all pods answered."""
    headline(f"site.yml builds the overlay, with the {backend} backend")
    playbook(backend)
    if known.BACKENDS[backend].carries:
        answered = show_pods(lab)
    else:
        show_subnets(lab, backend)
        answered = True
    headline("What was built: the network and its leases in etcd")
    print(lab.etcd.ctl("get", "--prefix", f"{PREFIX}/config"), end="")
    print(lab.etcd.ctl("get", "--prefix", f"{PREFIX}/subnets/"), end="")
    host = lab.hosts[0]
    headline(f"What was built: {host.name}")
    for command in commands(backend):
        print(f"{host.name}# {command}", flush=True)
        print(host.exec(command.split(), check=True).stdout)
    return answered


def show_pods(lab: Lab) -> bool:
    """A pod on each host, and whether all of them answered."""
    headline("One pod per host, on the host's bridge, as its subnet.env says")
    for host in lab.hosts:
        pod = add_pod(lab, host)
        print(f"{pod.name}  {pod.address}")
    headline("Each pod pings each other pod")
    matrix = lab.ping_matrix()
    print(table(matrix))
    return all(matrix.values())


def show_subnets(lab: Lab, backend: str) -> None:
    """What hosts have of a backend that carries no packets."""
    headline("The subnet that each host leases, as its subnet.env says")
    for host in lab.hosts:
        print(f"{host.name}  {subnet_env(host)['FLANNEL_SUBNET']}")
    print(f"There is no data plane to ping: the {backend} backend carries no packets.")


def commands(backend: str) -> list[str]:
    """What shows a host's part of the overlay."""
    found = known.parse({"Type": backend})
    device = [f"ip -d link show dev {found.device}"] if found.device else []
    if found.relay:
        device.append("/etc/flatnet/sbin/flatnet-relay status")
    elif found.device:
        device.append(f"bridge fdb show dev {found.device}")
        device.append(f"ip neigh show dev {found.device}")
    return [
        *device,
        *(["ip -br addr show dev cni0"] if found.carries else []),
        "ip route",
        "cat /run/flannel/subnet.env",
    ]


def variables(backend: str) -> str:
    return json.dumps({"flatnet_backend": {"type": backend}})


def playbook(backend: str) -> None:
    """Run site.yml, its output as it comes."""
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/site.yml"]
    command += ["-i", INVENTORY, "-e", variables(backend)]
    # A session of its own: a Ctrl-C is for us, who then end it before the lab goes.
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            code = process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    if code != 0:
        raise LabError(f"site.yml failed ({code}); its last lines above say why")


def add_pod(lab: Lab, host: Host) -> Pod:
    """A pod with the second address of the host's subnet; the first is the host's own."""
    gateway = IPv4Interface(subnet_env(host)["FLANNEL_SUBNET"])
    address = f"{gateway.ip + 1}/{gateway.network.prefixlen}"
    return lab.add_pod(host, address, str(gateway.ip))


def subnet_env(host: Host) -> dict[str, str]:
    text = (host.run / "flannel/subnet.env").read_text(encoding="utf-8")
    return dict(line.split("=", 1) for line in text.splitlines())


def print_hints(lab: Lab, backend: str) -> None:
    one, two = lab.hosts[:2]
    headline("The lab stays up. To look around")
    if lab.pods:
        print(f"""\
python3 -m tests.lab ping {lab.name}
python3 -m tests.lab exec {lab.name} {lab.pods[0].name} -- ping -c 3 {lab.pods[1].address}""")
    print(f"""\
python3 -m tests.lab exec {lab.name} {one.name} -- ip route
python3 -m tests.lab etcdctl {lab.name} -- get --prefix {PREFIX}
python3 -m tests.lab exec {lab.name} {two.name}      # a shell on a host
.venv/bin/ansible-playbook playbooks/site.yml -e '{variables(backend)}'      # changes nothing

To take it down
python3 -m tests.lab down {lab.name}
""")


def headline(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as exc:
        sys.exit(f"error: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)
