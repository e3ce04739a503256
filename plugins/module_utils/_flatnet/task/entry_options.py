# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the three modules for entries, checked: FDB entries, neighbours, routes.

Pure. The three modules have the same form, so the same rules hold for all: the options of a single
entry, or ``entries``; present or absent; with ``exclusive`` all other entries are removed.
entry_changes.py has the changes for the kernel.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

from .. import checks
from ..errors import InvalidInput
from ..kernel.entries import MAX_VNI, Fdb, Link, Neigh, Route, default_destination
from ..kernel.links import kind_of

_MAX_U32 = (1 << 32) - 1
_MIN_MTU = {4: 68, 6: 1280}
_MAX_MTU = 65520  # the kernel takes more and makes it this (ip_metrics_convert)
_V6_METRIC = 1024


class Asked(NamedTuple):
    """One entry as asked for. ``fields`` has only the fields that were given, by the entry's names.

    ``where`` begins its errors: ``entries[2].``; it is empty for a single entry.
    """

    where: str
    fields: dict[str, Any]


class EntryForm(NamedTuple):
    """One sort of entry. ``names`` has its options, each with its field in the entry. The first one
    identifies the entry."""

    entry: type
    names: dict[str, str]

    @property
    def first(self) -> str:
        return next(iter(self.names))


FDB = EntryForm(Fdb, {name: name for name in "mac dst port vni via src_vni".split()})
NEIGH = EntryForm(Neigh, {"address": "address", "mac": "mac"})
ROUTE = EntryForm(
    Route,
    {"prefix": "dst", "device": "dev", **{n: n for n in "gateway onlink mtu src metric".split()}},
)


def items(form: EntryForm, params: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """For each entry the beginning of its errors, and the options that were given."""
    if params["exclusive"] and params["state"] == "absent":
        raise InvalidInput(
            "exclusive: goes with state=present only; to remove everything, give it empty entries"
        )
    names = list(form.names)
    if params["entries"] is not None:
        # Routes may have both: the option device is the single route's, or that of all entries.
        both = [name for name in names if name != "device" and params[name] is not None]
        if both:
            raise InvalidInput(
                "%s: belongs into each of the entries, if entries is given" % both[0]
            )
        found = [("entries[%d]." % n, each) for n, each in enumerate(params["entries"])]
    elif params[form.first] is None:
        raise InvalidInput("%s: is required, unless entries is given" % form.first)
    else:
        found = [("", {name: params[name] for name in names})]
    return [
        (where, {name: each[name] for name in names if each.get(name) is not None})
        for where, each in found
    ]


def fdb(params: Mapping[str, Any]) -> list[Asked]:
    """FDB entries of ``device``."""
    checks.device("device", params["device"])
    found = []
    for where, given in items(FDB, params):
        given["mac"] = checks.mac(where + "mac", given["mac"], many=True)
        for name, low, high in (
            ("port", 1, 65535),
            ("vni", 0, MAX_VNI),
            ("src_vni", 0, MAX_VNI),
        ):
            checks.number(where + name, given.get(name), low, high)
        if "via" in given:
            checks.device(where + "via", given["via"])
        if "dst" in given:
            given["dst"] = checks.address(where + "dst", given["dst"])
            if ipaddress.ip_address(given["dst"]).is_unspecified:
                raise InvalidInput("%sdst: %s is no VTEP's address" % (where, given["dst"]))
        elif params["state"] == "present":
            raise InvalidInput("%sdst: is required: the VTEP that frames are sent to" % where)
        elif Fdb("", given["mac"], "").many:
            raise InvalidInput(
                "%sdst: is required, since %s can have several destinations" % (where, given["mac"])
            )
        found.append(Asked(where, given))
    return _consistent(FDB, params, found)


def neigh(params: Mapping[str, Any]) -> list[Asked]:
    """Neighbours on ``device``."""
    checks.device("device", params["device"])
    found = []
    for where, given in items(NEIGH, params):
        given["address"] = checks.address(where + "address", given["address"])
        address = ipaddress.ip_address(given["address"])
        if address.is_multicast or address.is_unspecified:
            raise InvalidInput("%saddress: %s is no neighbour's address" % (where, address))
        if "mac" in given:
            given["mac"] = checks.mac(where + "mac", given["mac"])
        elif params["state"] == "present":
            raise InvalidInput("%smac: is required: the neighbour's MAC address" % where)
        found.append(Asked(where, given))
    return _consistent(NEIGH, params, found)


def routes(params: Mapping[str, Any]) -> list[Asked]:
    """Routes of ``protocol`` in ``table``, through ``device`` unless a route names another one."""
    common = params["device"]
    if common is not None:
        checks.device("device", common)
    checks.number("table", params["table"], 1, _MAX_U32)
    # 0 to 2 are those of routes that the kernel makes by itself: unspec, redirect, kernel.
    checks.number("protocol", params["protocol"], 3, 255)
    found = []
    for where, given in items(ROUTE, params):
        device = given.setdefault("device", common)
        if device is None:
            del given["device"]
            if params["state"] == "present":
                raise InvalidInput(
                    "%sdevice: is required: the device that packets leave by" % where
                )
        elif common not in (None, device):
            raise InvalidInput(
                "%sdevice: %s differs from the option device, %s" % (where, device, common)
            )
        else:
            checks.device(where + "device", device)
        _route(where, given, params["state"] == "present")
        fields = {ROUTE.names[name]: value for name, value in given.items()}
        found.append(Asked(where, fields))
    return _consistent(ROUTE, params, found)


def _consistent(form: EntryForm, params: Mapping[str, Any], asked: list[Asked]) -> list[Asked]:
    """``asked``, unless an entry is in it twice."""
    if params["state"] == "present":
        wanted(form, params, asked)
        return asked
    seen: dict[tuple[Any, ...], str] = {}
    for where, fields in asked:
        other = seen.setdefault(tuple(sorted(fields.items())), where)
        if other != where:
            raise InvalidInput("%s%s: is already in %s" % (where, form.first, other.rstrip(".")))
    return asked


def _route(where: str, given: dict[str, Any], present: bool) -> None:
    """Check one route's options and make them canonical."""
    given["prefix"] = checks.network(where + "prefix", given["prefix"])
    family = ipaddress.ip_network(given["prefix"]).version
    if "gateway" in given:
        given["gateway"] = checks.address(where + "gateway", given["gateway"])
        gateway = ipaddress.ip_address(given["gateway"])
        if gateway.is_multicast or gateway.is_unspecified:
            raise InvalidInput("%sgateway: %s is no gateway's address" % (where, gateway))
        if family == 6 and gateway.version == 4:
            raise InvalidInput(
                "%sgateway: %s is IPv4, %s is IPv6" % (where, gateway, given["prefix"])
            )
    elif given.get("onlink") and present:
        raise InvalidInput("%sonlink: says that the gateway is on the link; set gateway" % where)
    if "src" in given:
        given["src"] = checks.address(where + "src", given["src"], family)
    checks.number(where + "mtu", given.get("mtu"), _MIN_MTU[family], _MAX_MTU)
    checks.number(where + "metric", given.get("metric"), 0, _MAX_U32)
    if family == 6 and given.get("metric") == _V6_METRIC:
        given["metric"] = 0


def settle(asked: Iterable[Asked], link: Link) -> list[Asked]:
    """FDB entries as the kernel will report them: without values that equal the device's own.

    Raises InvalidInput for entries that the device cannot hold.
    """
    if link.kind != "vxlan":
        raise InvalidInput(
            "device: %s is %s, not a VXLAN device; the FDB of a bridge's ports is not managed here"
            % (link.name, kind_of(link))
        )
    own = link.option
    outer = own["local"] or own["group"] or ""
    family = None if own["external"] else 6 if ":" in outer else 4
    found = []
    for where, given in asked:
        fields = dict(given)
        if family and "dst" in fields:
            checks.address(where + "dst", fields["dst"], family)
        if "src_vni" in fields and not own["external"] and fields["src_vni"] != own["id"]:
            raise InvalidInput(
                "%ssrc_vni: works only with a device that was made with `external`" % where
            )
        for name, value in (("port", own["dstport"]), ("vni", own["id"]), ("src_vni", own["id"])):
            if fields.get(name) == value:
                del fields[name]
        if "dst" in fields and Fdb(link.name, **fields) == default_destination(link):
            raise InvalidInput(
                "%sdst: %s is the device's own group, which the kernel sends to by itself"
                % (where, fields["dst"])
            )
        found.append(Asked(where, fields))
    return found


def wanted(form: EntryForm, params: Mapping[str, Any], asked: Iterable[Asked]) -> list[Any]:
    """The entries asked for. Raises InvalidInput if two of them have the same key."""
    names = ("table", "protocol") if form is ROUTE else ()
    common = {name: params[name] for name in names} or {"dev": params["device"]}
    found: dict[Any, tuple[str, Any]] = {}
    for where, fields in asked:
        entry = form.entry(**{**common, **fields})
        other, same = found.setdefault(entry.key, (where, entry))
        if other != where:
            why = "is already in %s" % other.rstrip(".")
            if same != entry:
                why += " with other values: %s" % (same,)
                if form is FDB:
                    why += "; the kernel keeps one destination for a unicast MAC"
            raise InvalidInput("%s%s: %s %s" % (where, form.first, entry, why))
    return [entry for dummy, entry in found.values()]


def exist(
    form: EntryForm, params: Mapping[str, Any], asked: Iterable[Asked], known: Container[str]
) -> None:
    """Raise InvalidInput if an option names a device that is not among the ``known`` ones."""
    named = [("device", params["device"])]
    for where, fields in asked:
        named += [
            (where + option, fields.get(field))
            for option, field in form.names.items()
            if option in ("via", "device")
        ]
    for option, name in named:
        if name is not None and name not in known:
            raise InvalidInput("%s: device %s does not exist on this host" % (option, name))


def results(form: EntryForm, asked: Iterable[Asked]) -> list[dict[str, Any]]:
    """The entries for a module's result, under the names of its options."""
    options_of = {field: option for option, field in form.names.items()}
    return [{options_of[name]: value for name, value in fields.items()} for dummy, fields in asked]
