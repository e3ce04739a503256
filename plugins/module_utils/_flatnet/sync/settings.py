# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of flatnet-sync: ``/etc/flatnet/sync.json``, which the role writes.

Pure but for ``load``. Errors name the field.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, NamedTuple

from .. import checks
from ..errors import InvalidInput
from ..fields import load_object, show
from ..flannel.lease import DEFAULT_PREFIX
from ..overlay import location
from ..overlay.location import Choice

# Half of the unit's WatchdogSec.
_LONGEST_TIMEOUT = 60
DEFAULT_PATH = "/etc/flatnet/sync.json"


class InvalidSettings(InvalidInput):
    """The settings file is missing or broken."""


class Etcd(NamedTuple):
    """How to reach etcd: see EtcdClient. ``timeout`` in seconds, for one attempt."""

    endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",)
    prefix: str = DEFAULT_PREFIX
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    username: str | None = None
    password: str | None = None
    timeout: float = 5.0


class Settings(NamedTuple):
    """``bridge`` None: this host has no bridge of ours. ``ttl`` as flannel_subnet's, in seconds.

    In seconds: ``check_interval`` is how often everything is compared with the kernel although
    nothing seems to have changed. ``retention`` is how long peers stay that an etcd with another
    history does not name. ``restore_wait`` is how long ``restore`` waits for the underlay's
    address.

    ``controllers`` are addresses that this host is managed from. ``state_file`` is read at boot.
    ``status_file`` is what ``status`` shows.
    """

    etcd: Etcd = Etcd()
    choice: Choice = Choice()
    vtep_mac: str | None = None
    bridge: str | None = None
    subnet_file: str = "/run/flannel/subnet.env"
    ipmasq: bool = False
    ttl: int = 0
    sysctls: tuple[tuple[str, str], ...] = ()
    controllers: tuple[str, ...] = ()
    state_file: str = "/var/lib/flatnet/state"
    status_file: str = "/run/flatnet/status.json"
    metrics_file: str | None = None
    check_interval: float = 60.0
    retention: float = 600.0
    restore_wait: float = 30.0


def load(path: str = DEFAULT_PATH) -> Settings:
    """Read and check the file; raises InvalidSettings."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        # They may hold etcd's password.
        hint = "; only root may read them" if isinstance(error, PermissionError) else ""
        raise InvalidSettings(
            "settings %s cannot be read: %s%s" % (path, error.strerror, hint)
        ) from None
    try:
        return parse(load_object(text, InvalidSettings, "settings %s" % path))
    except InvalidInput as error:
        raise InvalidSettings("settings %s: %s" % (path, error)) from None


def parse(found: dict[str, Any]) -> Settings:
    """Settings from a decoded object; fields that are not there have their defaults."""
    etcd = _fields("etcd", found.pop("etcd", {}), Etcd())
    etcd["endpoints"] = tuple(etcd["endpoints"])
    if not 0 < etcd["timeout"] <= _LONGEST_TIMEOUT:
        raise InvalidInput(
            "etcd.timeout: %s is not within 0 and %d seconds, and longer than that the resident "
            "program may not wait without a sign of life" % (etcd["timeout"], _LONGEST_TIMEOUT)
        )
    choice = _fields("choice", found.pop("choice", {}), Choice())
    fields = _fields("", found, Settings())
    for name, low in (("check_interval", 1), ("retention", 0), ("restore_wait", 0), ("ttl", 0)):
        if fields[name] < low:
            raise InvalidInput("%s: %s is less than %s" % (name, fields[name], low))
    if fields["bridge"]:
        checks.device("bridge", fields["bridge"])
    if fields["vtep_mac"]:
        fields["vtep_mac"] = checks.mac("vtep_mac", fields["vtep_mac"])
    for name in ("subnet_file", "state_file", "status_file", "metrics_file"):
        if fields[name] is not None and not os.path.isabs(fields[name]):
            raise InvalidInput("%s: %s is not an absolute path" % (name, show(fields[name])))
    fields["controllers"] = tuple(
        checks.address("controllers", each if isinstance(each, str) else show(each), 4)
        for each in fields["controllers"]
    )
    fields["sysctls"] = _sysctls(fields["sysctls"])
    fields.update(etcd=Etcd(**etcd), choice=Choice(**choice))
    location.check(fields["choice"])
    return Settings(**fields)


def _sysctls(found: Any) -> tuple[tuple[str, str], ...]:
    pairs = found.items() if isinstance(found, dict) else found
    for name, value in pairs:
        # What the service may write is confined to these.
        if not re.fullmatch(r"net(\.[\w-]+)+", name):
            raise InvalidInput("sysctls: %s is not a name like net.ipv4.ip_forward" % show(name))
        if not isinstance(value, str) or "\n" in value:
            raise InvalidInput("sysctls: the value of %s must be text" % name)
    return tuple(sorted(pairs))


def _fields(where: str, found: Any, default: Any) -> dict[str, Any]:
    """The object's fields over the defaults, each of the default's type."""
    fields: dict[str, Any] = default._asdict()
    if not isinstance(found, dict):
        raise InvalidInput("%s: must be an object, not %s" % (where, show(found)))
    for name, value in found.items():
        path = "%s.%s" % (where, name) if where else name
        if name not in fields:
            raise InvalidInput("%s: there is no such field" % path)
        if not _fits(value, fields[name]):
            raise InvalidInput("%s: %s is of the wrong type" % (path, show(value)))
        fields[name] = value
    return fields


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, (int, float)):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, tuple):
        return isinstance(value, (list, dict))
    return isinstance(value, str) or (default is None and value is None)


def to_json(settings: Settings) -> str:
    """What ``parse`` reads back; defaults left out."""
    out: dict[str, Any] = {}
    for name in ("etcd", "choice"):
        group = getattr(settings, name)
        out[name] = {key: value for key, value in group._asdict().items() if value is not None}
    for name, value in settings._asdict().items():
        if name not in out and value is not None and value != Settings._field_defaults[name]:
            out[name] = dict(value) if name == "sysctls" else value
    return json.dumps(out, indent=2, sort_keys=True) + "\n"
