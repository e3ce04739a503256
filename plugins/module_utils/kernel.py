# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel of the network namespace we run in: observe it, apply changes to it.

The only file that imports pyroute2, and only for devices, whose options are many; the entries of
a device come by the thousand and go through netlink.py. A device that is not there needs no
library to be observed, so check mode works on a host that has not got pyroute2 yet.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import itertools
import os
import socket
import struct
from typing import Any, Callable

from . import messages, netlink
from .entries import MAIN_TABLE, ZERO_MAC, Address, Entry, Fdb, Link, Neigh, Route
from .errors import FlatnetError
from .netlink import Netlink, Refusal
from .plan import Change, Changes, inverse
from .underlay import Interface

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_GONE = (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)
_SIOCGIFMTU = 0x8921

# ip-link's words and pyroute2's attributes (linux/if_link.h). Values are as the kernel counts:
# seconds, bytes, ports and VNIs as numbers, flags as booleans.
_OPTIONS = {
    "vxlan": {
        "id": "vxlan_id",
        "dstport": "vxlan_port",
        "local": "vxlan_local",
        "group": "vxlan_group",
        "dev": "vxlan_link",
        "learning": "vxlan_learning",
        "proxy": "vxlan_proxy",
        "l2miss": "vxlan_l2miss",
        "l3miss": "vxlan_l3miss",
        "rsc": "vxlan_rsc",
        "ttl": "vxlan_ttl",
        "tos": "vxlan_tos",
        "ageing": "vxlan_ageing",
        "udpcsum": "vxlan_udp_csum",
        "udp6zerocsumtx": "vxlan_udp_zero_csum6_tx",
        "udp6zerocsumrx": "vxlan_udp_zero_csum6_rx",
        "gbp": "vxlan_gbp",
    },
    "bridge": {"stp": "br_stp_state", "vlan_filtering": "br_vlan_filtering"},
}
_FLAGS = frozenset(
    ("learning proxy l2miss l3miss rsc udpcsum udp6zerocsumtx udp6zerocsumrx gbp stp").split()
    + ["vlan_filtering"]
)


class KernelError(FlatnetError):
    """The kernel refused changes; ``refused`` names each with its reason."""

    def __init__(self, message: str, refused: tuple[tuple[Change, str], ...] = ()) -> None:
        super().__init__(message)
        self.refused = refused


class MissingLibrary(FlatnetError):
    """pyroute2 cannot be imported under this interpreter."""


class Kernel:
    """Devices, addresses, neighbours, FDB and routes of this network namespace.

    Use as a context manager. Reads return only what could be ours: permanent entries, addresses
    of global scope, unicast routes.
    """

    def __init__(self) -> None:
        self._netlink = Netlink()
        self._ipr: Any = None
        self._refusals: tuple[type[Exception], ...] = (OSError,)

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *failure: object) -> None:
        self._netlink.close()
        if self._ipr is not None:
            self._ipr.close()

    # --- observe --------------------------------------------------------------------------------

    def interfaces(self) -> dict[str, Interface]:
        """All devices by name."""
        found = {}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for index, name in socket.if_nameindex():
                try:
                    answer = fcntl.ioctl(
                        control, _SIOCGIFMTU, struct.pack("16si12x", name.encode(), 0)
                    )
                except OSError:  # gone since the listing
                    continue
                found[name] = Interface(name, index, struct.unpack_from("i", answer, 16)[0])
        return found

    def link(self, name: str) -> Link | None:
        """A device as it is; ``kind`` is empty for hardware. None if there is none."""
        index = _index().get(name)
        if index is None:
            return None
        try:
            (found,) = self._iproute().link("get", index=index)
        except self._refusals as error:
            if _code(error) == errno.ENODEV:
                return None
            raise KernelError("cannot read device %s: %s" % (name, _reason(error))) from None
        return _decode_link(found)

    def addresses(self, dev: str | None = None) -> list[Address]:
        """Addresses of global and site scope, of one device or of all."""
        names = _names()
        found = []
        for family in _FAMILIES:
            request = messages.address_request(family)
            for body in self._netlink.dump(netlink.RTM_GETADDR, request):
                address = messages.decode_address(body, names)
                if address and dev in (None, address.dev):
                    found.append(address)
        return found

    def neighbours(self, dev: str) -> list[Neigh]:
        """Permanent neighbours of a device; empty if there is no such device."""
        index = _index().get(dev)
        if index is None:
            return []
        found = []
        for family in _FAMILIES:
            request = messages.neigh_request(family, index)
            for body in self._netlink.dump(netlink.RTM_GETNEIGH, request):
                neigh = messages.decode_neigh(body, dev, index)
                if neigh:
                    found.append(neigh)
        return found

    def fdb(self, dev: str) -> list[Fdb]:
        """Permanent FDB entries of a VXLAN device; empty if there is no such device.

        Without the default destination that the kernel keeps for the device's own ``group``.
        """
        names = _names()
        index = {name: number for number, name in names.items()}.get(dev)
        if index is None:
            return []
        found = []
        request = messages.fdb_request(index)
        for body in self._netlink.dump(netlink.RTM_GETNEIGH, request):
            entry = messages.decode_fdb(body, dev, index, names)
            if entry:
                found.append(entry)
        if any(entry.mac == ZERO_MAC for entry in found):
            link = self.link(dev)
            group = link.option.get("group") if link else None
            if group:
                found = [e for e in found if e.mac != ZERO_MAC or e.dst != group]
        return found

    def routes(self, table: int = MAIN_TABLE) -> list[Route]:
        """Unicast routes of a table, everybody's, of both families."""
        names = _names()
        found = []
        for family in _FAMILIES:
            request = messages.route_request(family, table)
            try:
                bodies = self._netlink.dump(netlink.RTM_GETROUTE, request)
            except netlink.NetlinkError:
                if table == MAIN_TABLE:
                    raise
                continue  # a strict dump of a table that does not exist is refused with ENOENT
            for body in bodies:
                route = messages.decode_route(body, table, names)
                if route:
                    found.append(route)
        return found

    def held(self, dev: str) -> list[Entry]:
        """All that a device holds and would lose with it: addresses, neighbours, FDB, routes.

        Routes that the kernel makes by itself for an address are left out.
        """
        if dev not in _index():
            return []
        found: list[Entry] = []
        found += self.addresses(dev)
        found += self.neighbours(dev)
        found += self.fdb(dev)
        found += [r for r in self.routes() if r.dev == dev and r.protocol != 2]
        return found

    # --- apply ----------------------------------------------------------------------------------

    def apply(self, changes: Changes) -> None:
        """Carry out ``changes`` in order; if one is refused, take back those already done.

        Raises KernelError with every refused entry of the failing step.
        """
        done: list[Change] = []
        for dummy, step in itertools.groupby(changes, key=lambda change: change.kind):
            batch = list(step)
            refused = self._step(batch)
            failed = {place for place, dummy in refused}
            done += [change for place, change in enumerate(batch) if place not in failed]
            if refused:
                raise self._unwound(
                    tuple((batch[place], reason) for place, reason in refused), done
                )

    def converge(self, compute: Callable[[], Changes], check_mode: bool) -> Changes:
        """Apply what ``compute`` plans from a fresh observation, then see that nothing is left.

        Returns the changes, which in check mode are only planned. The second look is not a
        formality: the kernel acknowledges some requests without doing anything.
        """
        changes = compute()
        if changes and not check_mode:
            self.apply(changes)
            left = compute()
            if left:
                raise KernelError(
                    "the kernel acknowledged all %d changes, but %d things are not as they should "
                    "be: %s; does something else on this host change them back?"
                    % (len(changes), len(left), "; ".join(str(change) for change in left[:5])),
                    tuple((change, "not done") for change in left),
                )
        return changes

    def _unwound(self, refused: tuple[tuple[Change, str], ...], done: list[Change]) -> KernelError:
        left: list[str] = []
        for dummy, step in itertools.groupby(inverse(done), key=lambda change: change.kind):
            batch = list(step)
            left += ["%s: %s" % (batch[place], reason) for place, reason in self._step(batch)]
        words = "the kernel refused to %s: %s" % refused[0]
        if len(refused) > 1:
            words += "; and %d more" % (len(refused) - 1)
        if any("EPERM" in reason for dummy, reason in refused):
            words += "; changing the network needs root (CAP_NET_ADMIN)"
        if left:
            words += "; could not be taken back: " + "; ".join(left[:5])
        elif done:
            words += "; the %d changes made before were taken back" % len(done)
        return KernelError(words, refused)

    def _step(self, batch: list[Change]) -> list[tuple[int, str]]:
        """Changes of one kind; the refused ones by their place."""
        if batch[0].kind is Link:
            for place, change in enumerate(batch):
                reason = self._change_link(change.before, change.after)  # type: ignore[arg-type]
                if reason:
                    return [(place, reason)] + [
                        (later, "not tried") for later in range(place + 1, len(batch))
                    ]
            return []
        index = _index()
        sent: list[int] = []
        requests = []
        refused: list[tuple[int, str]] = []
        for place, (before, after) in enumerate(batch):
            try:
                requests.append(messages.encode(before, after, index))  # type: ignore[arg-type]
                sent.append(place)
            except KeyError as missing:
                if after is not None:
                    refused.append((place, "device %s does not exist" % missing.args[0]))
        for number, refusal in self._netlink.batch(requests).items():
            place = sent[number]
            if batch[place].after is not None or refusal.errno not in _GONE:
                refused.append((place, str(refusal)))
        return sorted(refused)

    # --- devices, over pyroute2 -----------------------------------------------------------------

    def _iproute(self) -> Any:
        if self._ipr is None:
            try:
                # Not at the top: importing it takes longer than all else a module does.
                pyroute2 = importlib.import_module("pyroute2")
                exceptions = importlib.import_module("pyroute2.netlink.exceptions")
            except ImportError as error:
                raise MissingLibrary(
                    "pyroute2 0.7.2 or later is needed on the host and cannot be imported (%s); "
                    "install it with the distribution's python3-pyroute2, or for the interpreter "
                    "in use" % error
                ) from None
            self._ipr = pyroute2.IPRoute()
            self._refusals = (exceptions.NetlinkError, OSError)
        return self._ipr

    def _change_link(self, before: Link | None, after: Link | None) -> str | None:
        """None if done, else the reason; a device that could not be finished is not left."""
        made = False
        try:
            if after is None:
                index = _index().get(before.name) if before else None
                if index is not None:
                    self._iproute().link("del", index=index)
                return None
            common = self._common(before, after)
            options = self._options(before, after)
            if before is None:
                up = common.pop("state", None)
                self._iproute().link("add", ifname=after.name, kind=after.kind, **common, **options)
                made = True
                common = {"state": up} if up else {}
                options = {}
            index = _index()[after.name]
            if options:
                self._iproute().link("set", index=index, kind=after.kind, **options)
            # MTU and MAC first: some changes are refused or disturb traffic once a device is up.
            for name in ("mtu", "address", "master", "state"):
                if name in common:
                    self._iproute().link("set", index=index, **{name: common[name]})
        except KeyError as missing:
            reason = "device %s does not exist" % missing.args[0]
        except self._refusals as error:
            reason = _reason(error)
        else:
            return None
        if made and after is not None:
            self._change_link(after, None)
        return reason

    @staticmethod
    def _common(before: Link | None, after: Link) -> dict[str, Any]:
        new: dict[str, Any] = {}
        for name, key in (("mtu", "mtu"), ("mac", "address"), ("master", "master")):
            value = getattr(after, name)
            if value is not None and value != (getattr(before, name) if before else None):
                new[key] = value
        if "master" in new:
            if new["master"]:
                new["master"] = _index()[new["master"]]
            elif before is None:
                del new["master"]
            else:
                new["master"] = 0
        if after.up is not None and after.up != (before.up if before else False):
            new["state"] = "up" if after.up else "down"
        return new

    @staticmethod
    def _options(before: Link | None, after: Link) -> dict[str, Any]:
        have = before.option if before else {}
        out: dict[str, Any] = {}
        for name, value in after.options:
            if value == have.get(name) or (value is None and name not in have):
                continue
            key = _OPTIONS[after.kind][name]
            if name in ("local", "group") and value and ":" in value:
                key += "6"
            encoded = _encode_option(name, value)
            if encoded is not None:
                out[key] = encoded
        return out


def _encode_option(name: str, value: Any) -> Any:
    """A device option as pyroute2 takes it; None for an attribute to leave out."""
    if name == "dev":
        return _index()[value] if value else 0
    if name == "gbp":
        return value or None  # an attribute without a value: there or not
    return int(value) if name in _FLAGS else value


def _code(error: Exception) -> int:
    """The errno of a NetlinkError or an OSError, 0 if it has none."""
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    return code if isinstance(code, int) else 0


def _reason(error: Exception) -> str:
    code = _code(error)
    if not code:
        return "%s: %s" % (type(error).__name__, error)
    text = str(error.args[-1]) if error.args else ""
    return str(Refusal(code, "" if text == os.strerror(code) else text))


def _index() -> dict[str, int]:
    return {name: index for index, name in socket.if_nameindex()}


def _names() -> dict[int, str]:
    return dict(socket.if_nameindex())


def _decode_link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else None) or ""
    data = info.get_attr("IFLA_INFO_DATA") if info else None
    names = _names()
    options: dict[str, Any] = {}
    for name, key in _OPTIONS.get(kind, {}).items():
        attribute = "IFLA_" + key.upper()
        value = data.get_attr(attribute) if data else None
        if value is None and name in ("local", "group"):
            value = data.get_attr(attribute + "6") if data else None
        if name == "gbp":
            # A flag without a value: pyroute2 gives its presence in different ways.
            value = any(entry[0] == attribute for entry in data["attrs"]) if data else False
        elif name in _FLAGS:
            value = bool(value)
        elif name == "dev":
            value = names.get(value) if value else None
        elif name in ("local", "group") and value in ("0.0.0.0", "::"):
            value = None
        options[name] = value
    master = message.get_attr("IFLA_MASTER")
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        kind=kind,
        mtu=message.get_attr("IFLA_MTU"),
        mac=message.get_attr("IFLA_ADDRESS"),
        master=names.get(master, "") if master else "",
        up=bool(message["flags"] & 1),
        options=tuple(sorted(options.items())),
    )
