# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bridges, VXLAN and TUN devices: make, change or remove one, over pyroute2.

The only file that imports pyroute2, and only when it changes a device. To observe needs no
pyroute2, so check mode works on a host that does not have it yet.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Callable

from ..errors import FlatnetError
from . import tuntap
from .entries import Link
from .kernel import Kernel
from .netlink import Refusal, by_name

# ip-link's words and pyroute2's attributes (linux/if_link.h). Values are as the kernel counts:
# seconds, bytes, ports and VNIs as numbers, flags as booleans.
_OPTIONS = {
    "vxlan": {
        "id": "vxlan_id",
        "dstport": "vxlan_port",
        "local": "vxlan_local",
        "group": "vxlan_group",
        "dev": "vxlan_link",
        "external": "vxlan_collect_metadata",
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
    "tun": {},  # fixed when it is made
}
_FLAGS = frozenset(
    (
        "external learning proxy l2miss l3miss rsc udpcsum udp6zerocsumtx udp6zerocsumrx gbp stp "
        "vlan_filtering"
    ).split()
)
_MIN_MTU = 68


class MissingLibrary(FlatnetError):
    """pyroute2 cannot be imported under this interpreter."""


class Devices:
    """Changes devices of this network namespace. ``read`` returns a device as it is now."""

    def __init__(self, read: Callable[[str], Link | None]) -> None:
        self._read = read
        self._ipr: Any = None
        self._refusals: tuple[type[Exception], ...] = (OSError, KeyError)

    def close(self) -> None:
        if self._ipr is not None:
            self._ipr.close()

    def change(self, before: Link | None, after: Link | None) -> Refusal | None:
        """Make, change or remove a device. Returns None if that was done. Otherwise returns why
        not, and the device is as it was before."""
        made = False
        try:
            if after is None:
                index = by_name().get(before.name) if before else None
                if index is not None:
                    self._iproute().link("del", index=index)
                return None
            if before is None:
                self._add(after)
                made = True
                self._set(after.name, {"mtu": after.mtu} if after.mtu else {})
                self._set(after.name, {"state": "up"} if after.up else {})
            else:
                self._alter(before, after)
            return None
        except self._refusals as error:
            refusal = _refusal(error)
            if refusal.errno == errno.EEXIST and after and after.name not in by_name():
                refusal = _with(refusal, "another VXLAN device has this VNI and port")
        if made and after:
            self.change(after, None)
        elif before and after:
            try:
                self._alter(self._read(before.name) or before, before)
            except self._refusals as failure:
                refusal = _with(
                    refusal,
                    "taking back the rest of the change failed too: %s" % (_refusal(failure),),
                )
        return refusal

    def _alter(self, before: Link, after: Link) -> None:
        options = _options(before, after)
        if options:
            self._set(after.name, {"kind": after.kind, **options})
        # The state last: some changes are refused or disturb traffic once a device is up.
        for name, value in _common(before, after).items():
            self._set(after.name, {name: value})

    def _add(self, link: Link) -> None:
        if link.kind == "tun":
            tuntap.make(link)
            return
        common = _common(None, link)
        common.pop("state", None)
        if link.kind == "bridge" and link.mtu:
            # A bridge takes its ports' smallest MTU until somebody sets one. The MTU that it is
            # made with does not count, nor one that it has already. So make it with another one.
            common["mtu"] = link.mtu - 1 if link.mtu > _MIN_MTU else link.mtu + 1
        options = _options(None, link)
        self._iproute().link("add", ifname=link.name, kind=link.kind, **common, **options)

    def _set(self, name: str, what: dict[str, Any]) -> None:
        if what:
            self._iproute().link("set", index=by_name()[name], **what)

    def _iproute(self) -> Any:
        if self._ipr is None:
            try:
                # Not at the top: importing it takes longer than all else a module does.
                import pyroute2  # noqa: PLC0415
                from pyroute2.netlink import exceptions  # noqa: PLC0415
            except ImportError as error:
                raise MissingLibrary(
                    "pyroute2 0.7.2 or later is needed on the host and cannot be imported (%s); "
                    "install the distribution's package python3-pyroute2, or pyroute2 for the "
                    "interpreter that is used" % error
                ) from None
            self._ipr = pyroute2.IPRoute()
            self._refusals = (exceptions.NetlinkError, OSError, KeyError)
        return self._ipr


class DeviceKernel(Kernel):
    """As Kernel, and changes devices too."""

    def __init__(self) -> None:
        super().__init__()
        self._devices = Devices(self.link)

    def __exit__(self, *failure: object) -> None:
        super().__exit__(*failure)
        self._devices.close()

    def _change_device(self, before: Link | None, after: Link | None) -> Refusal | None:
        return self._devices.change(before, after)


def _common(before: Link | None, after: Link) -> dict[str, Any]:
    """The changes of properties that all kinds have, in the order in which to set them."""
    new: dict[str, Any] = {}
    for name, key in (("mtu", "mtu"), ("mac", "address"), ("master", "master")):
        value = getattr(after, name)
        if value is not None and value != (getattr(before, name) if before else None):
            new[key] = value
    if "master" in new:
        if new["master"]:
            new["master"] = by_name()[new["master"]]
        elif before is None:
            del new["master"]
        else:
            new["master"] = 0
    if after.up is not None and after.up != (before.up if before else False):
        new["state"] = "up" if after.up else "down"
    return new


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
        return by_name()[value] if value else 0
    if name == "gbp":
        return value or None  # an attribute without a value: there or not
    return int(value) if name in _FLAGS else value


def _code(error: Exception) -> int:
    """The errno of a NetlinkError or an OSError, 0 if it has none."""
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    return code if isinstance(code, int) else 0


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, KeyError):
        return Refusal(0, "device %s does not exist" % error.args[0])
    code = _code(error)
    if not code:
        return Refusal(0, "%s: %s" % (type(error).__name__, error))
    text = str(error.args[-1]) if error.args else ""
    return Refusal(code, "" if text == os.strerror(code) else text)


def _with(refusal: Refusal, more: str) -> Refusal:
    return refusal._replace(text="%s; %s" % (refusal.text, more) if refusal.text else more)
