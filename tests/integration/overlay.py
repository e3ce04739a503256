# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The flannel_* modules on a lab: run them, write leases by hand, see etcd and the kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t

from tests.integration.modules import COLLECTIONS, Result, run_module, run_modules
from tests.lab import Host, Lab

PREFIX = "/coreos.com/network"

Arguments = t.Mapping[str, t.Any]

# What is refused by every module that talks to etcd: option, value, a part of the message.
ETCD_CASES: list[tuple[str, t.Any, str]] = [
    ("etcd_endpoints", [], ""),
    ("etcd_endpoints", ["ftp://192.0.2.1:2379"], "ftp"),
    ("etcd_endpoints", ["192.0.2.1:2379"], "http"),
    ("etcd_endpoints", ["http://192.0.2.1:99999"], ""),
    ("etcd_endpoints", {"a": 1}, ""),
    ("etcd_prefix", "coreos.com/network", "begin with a slash"),
    ("etcd_prefix", "/coreos.com/network/", "not end with one"),
    ("etcd_ca_file", "/nonexistent.pem", ""),
    ("etcd_cert_file", "/nonexistent.pem", ""),
    ("etcd_key_file", "/nonexistent.key", ""),
    ("etcd_username", "root", "etcd_password"),
    ("etcd_password", "secret", "etcd_username"),
    ("etcd_timeout", 0, ""),
    ("etcd_timeout", -1, ""),
    ("etcd_timeout", "soon", "unable to convert to float"),
]

_DUMP = """
ip -o link; ip -d -o link show type vxlan; ip -o -4 addr
ip -4 route show table all; ip neigh show nud permanent; bridge fdb show
cat /etc/flatnet/relay-table.json 2>/dev/null; true
"""

_WRITE = """
import json, sys
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.etcd.client import (
    EtcdClient,
    Op,
)
endpoints, values = json.load(sys.stdin)
puts = [Op.put(key, value) for key, value in values.items()]
with EtcdClient(endpoints) as client:
    for first in range(0, len(puts), 100):
        client.txn([], puts[first : first + 100])
"""


def vxlan_lease(public_ip: str, mac: str, vni: int = 1) -> str:
    """A lease's value as a flanneld writes it."""
    return (
        '{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan",'
        '"BackendData":{"VNI":%d,"VtepMAC":"%s"}}' % (public_ip, vni, mac)
    )


def host_gw_lease(public_ip: str) -> str:
    return '{"PublicIP":"%s","PublicIPv6":null,"BackendType":"host-gw"}' % public_ip


class Overlay:
    """A lab's etcd and hosts, clean at first."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.etcd = lab.etcd
        self.hosts = lab.hosts
        self.host = lab.hosts[0]
        self.etcd_options: dict[str, t.Any] = {"etcd_endpoints": lab.etcd.endpoints}

    def clean(self) -> None:
        """Without devices, routes and keys of the test before."""
        self.etcd.start()
        self.etcd.delete("/", prefix=True)
        for host in self.hosts:
            links = json.loads(host.exec(["ip", "-j", "link"], check=True).stdout)
            for link in links:
                if link["ifname"] not in ("lo", "eth0"):
                    host.exec(["ip", "link", "del", link["ifname"]])
            host.exec(["ip", "route", "flush", "root", "10.0.0.0/8"], check=True)
            for name in ("flannel/subnet.env",):
                (host.run / name).unlink(missing_ok=True)
            for name in ("relay.json", "relay-table.json"):
                (host.etc / "flatnet" / name).unlink(missing_ok=True)

    # --- running --------------------------------------------------------------------------------

    def run(
        self, name: str, check: bool = False, host: Host | None = None, **arguments: t.Any
    ) -> Result:
        """Run a module, which must not fail."""
        result = self.attempt(name, check, host, **arguments)
        assert not result["failed"], result["msg"]
        return result

    def attempt(
        self, name: str, check: bool = False, host: Host | None = None, **arguments: t.Any
    ) -> Result:
        return run_module(host or self.host, name, {**self.etcd_options, **arguments}, check)

    def converge(self, name: str, host: Host | None = None, **arguments: t.Any) -> Result:
        """Check mode, the real run, and once more: what the first told is what the second did."""
        before = self.state()
        planned = self.run(name, True, host, **arguments)
        assert self.state() == before, "check mode changed something"
        done, again, third = self._runs(name, host, arguments, False, True, False)
        for result in (done, again, third):
            assert not result["failed"], result["msg"]
        assert (planned["changed"], done["changed"]) == (True, True)
        assert planned["diff"] == done["diff"]
        for key in done.keys() - {"revision", "transactions", "invocation"}:
            assert planned[key] == done[key]
        for result in (again, third):
            assert not result["changed"], result["diff"]
            assert result["diff"]["before"] == result["diff"]["after"]
        assert self.state() != before
        return done

    def unchanged(self, name: str, host: Host | None = None, **arguments: t.Any) -> Result:
        """Run a module, which must have nothing to do, in check mode or out of it."""
        before = self.state()
        for again in self._runs(name, host, arguments, True, False):
            assert not again["failed"], again["msg"]
            assert not again["changed"], again["diff"]
            assert again["diff"]["before"] == again["diff"]["after"]
        assert self.state() == before
        return again

    def refused(self, name: str, *texts: str, host: Host | None = None, **arguments: t.Any) -> str:
        """Run a module, which must fail with all of these in one sentence, and change nothing."""
        before = self.state()
        for result in self._runs(name, host, arguments, True, False):
            assert result["failed"]
            assert not result["changed"]
            for text in texts:
                assert text in result["msg"]
            assert "\n" not in result["msg"]
        assert self.state() == before
        return result["msg"]

    def refused_for_real(self, name: str, text: str, **arguments: t.Any) -> None:
        """As refused, of what check mode does not mind, or cannot notice."""
        assert not self.attempt(name, check=True, **arguments)["failed"]
        before = self.state()
        result = self.attempt(name, **arguments)
        assert result["failed"]
        assert text in result["msg"]
        assert self.state() == before

    def each_refused(
        self, name: str, good: Arguments, cases: t.Sequence[tuple[str, t.Any, str]]
    ) -> None:
        """Each bad value of an option (``backend.vni``) is refused by the option's name.

        The third of a case is a part of the message. Nothing is changed meanwhile.
        """
        before = self.state()
        runs = []
        for option, value, _text in cases:
            arguments = {**self.etcd_options, **good}
            outer, dot, inner = option.partition(".")
            arguments[outer] = {**(good.get(outer) or {}), inner: value} if dot else value
            runs.append(arguments)
        problems = []
        for case, result in zip(cases, run_modules(self.host, name, runs)):
            option, _value, text = case
            message = result.get("msg", "no error at all")
            named = option.rpartition(".")[2] in message and "\n" not in message
            if not result["failed"] or result["changed"] or not named or text not in message:
                problems.append("%s: %s" % (case, message))
        assert not problems, "\n".join(problems)
        assert self.state() == before

    def _runs(
        self, name: str, host: Host | None, arguments: Arguments, *checks: bool
    ) -> list[Result]:
        """One after the other, in check mode or not."""
        given = {**self.etcd_options, **arguments}
        runs = [{**given, "_ansible_check_mode": check} for check in checks]
        return run_modules(host or self.host, name, runs)

    # --- what is there --------------------------------------------------------------------------

    def state(self) -> dict[str, t.Any]:
        """Everything in etcd, with revisions and etcd leases, and in the hosts' kernels."""
        found = {host.name: self.kernel(host) for host in self.hosts}
        if self.etcd.pids(1):
            answer = json.loads(self.etcd.ctl("get", "/", "--prefix", "--write-out=json"))
            found["etcd"] = answer.get("kvs")
        return found

    def keys(self) -> dict[str, str]:
        return self.etcd.get_prefix("/")

    def kernel(self, host: Host | None = None) -> str:
        return (host or self.host).exec(["sh", "-c", _DUMP], check=True).stdout

    def leases(self) -> dict[str, str]:
        """Subnets (with a dash) and values."""
        start = PREFIX + "/subnets/"
        return {key[len(start) :]: value for key, value in self.etcd.get_prefix(start).items()}

    def put_lease(self, subnet: str, value: str) -> None:
        self.etcd.put("%s/subnets/%s" % (PREFIX, subnet.replace("/", "-")), value)

    def put_leases(self, leases: t.Mapping[str, str]) -> None:
        """Thousands of them."""
        values = {"%s/subnets/%s" % (PREFIX, name): value for name, value in leases.items()}
        subprocess.run(
            self.host.command([sys.executable, "-c", _WRITE]),
            input=json.dumps([self.etcd.endpoints, values]),
            env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
            text=True,
            check=True,
        )

    # --- what modules of other parts make -------------------------------------------------------

    def make_vtep(self, mac: str, host: Host | None = None, vni: int = 1) -> None:
        """The VXLAN device, by way of ip(8)."""
        host = host or self.host
        name = "flannel.%d" % vni
        link = (
            f"link add {name} address {mac} type vxlan id {vni} dstport 8472 "
            f"local {host.address} dev eth0 nolearning"
        )
        for line in (link, f"link set {name} up"):
            host.exec(["ip", *line.split()], check=True)
