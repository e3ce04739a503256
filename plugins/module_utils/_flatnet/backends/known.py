# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backends by name, and what follows from all of them. Pure."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidInput
from ..fields import fold, given, show
from . import field
from .alloc import Alloc
from .host_gw import HostGw
from .protocol import Backend, LeaseData
from .udp.backend import Udp
from .vxlan import Vxlan

BACKENDS: dict[str, type[Backend]] = {each.type: each for each in (Vxlan, HostGw, Udp, Alloc)}
# What is written where a user names none.
DEFAULT = Vxlan.type
# What flannel takes where the config names none; its documentation says otherwise.
_UNNAMED = Udp.type


def parse(raw: dict[str, Any]) -> Backend:
    """``Backend`` of the config. Raises InvalidInput naming the field."""
    kind = given(fold(raw, {"Type"}).get("Type"), _UNNAMED)
    if not isinstance(kind, str) or kind.lower() not in BACKENDS:
        raise InvalidInput(
            "Backend.Type %s is not one of %s" % (show(kind), ", ".join(BACKENDS)), "Backend.Type"
        )
    make: Any = BACKENDS[kind.lower()]
    found: Backend = make(**field.read(make.fields, raw))
    return found


def to_dict(backend: Backend) -> dict[str, Any]:
    """What ``parse`` reads back."""
    return {"Type": backend.type, **field.write(backend.fields, backend)}


def lease_options(data: LeaseData | None) -> dict[str, Any]:
    """What a lease says, for results of modules. What only leases of other backends say is None."""
    names = {name: None for each in BACKENDS.values() for name in each.lease_options}
    return {**names, **(data.options if data else {})}


def offered() -> dict[str, list[str]]:
    """The options that there are, each with the backends that take it."""
    found: dict[str, list[str]] = {}
    for kind, backend in BACKENDS.items():
        for each in backend.fields:
            if each.offered:
                found.setdefault(each.option, []).append(kind)
    return found


def fields() -> dict[str, field.Field]:
    """All fields by the names of options. If backends have different defaults, the default is None
    here."""
    found: dict[str, field.Field] = {}
    for backend in BACKENDS.values():
        for each in backend.fields:
            former = found.setdefault(each.option, each)
            if former.default != each.default:
                found[each.option] = former._replace(default=None)
    return found


def modules() -> list[str]:
    """The kernel modules that any backend needs."""
    return sorted({name for each in BACKENDS.values() for name in each.modules})


def describe(backend: Backend) -> dict[str, Any]:
    """A backend, for results of modules, with what it needs of a host. Fields of other backends
    have their defaults."""
    every = BACKENDS.values()
    return {
        "type": backend.type,
        "device": backend.device,
        **{option: getattr(backend, option, each.default) for option, each in fields().items()},
        "port": backend.port,
        "carries": backend.carries,
        "maker": backend.maker,
        "relay": backend.relay,
        "untunnelled": backend.untunnelled,
        "modules": list(backend.modules),
        # Those of all backends, because an earlier backend may have left devices.
        "device_names": sorted({name for each in every for name in each.device_names}),
        "fixed_macs": sorted({name for each in every for name in each.fixed_macs}),
    }
