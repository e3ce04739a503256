# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last applied state, kept on disk for the next boot.

A host that boots may reach neither etcd nor a controller. So the file has what everything on the
host is made from: the config, the leases, and where the underlay was. It never decides against
etcd: it is written after a state was applied, and read at boot, or as long as etcd has not answered
since the program started.

The file is one header line, ``flatnet-state <version> <sha256 of the rest>``, then JSON. It is
replaced atomically; a file whose checksum does not fit is refused whole.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import FlatnetError
from ..fields import dumps
from ..flannel.config import InvalidConfig, NetworkConfig, parse_config
from ..flannel.lease import InvalidLease, Lease, parse_lease
from ..host.files import replace
from .retention import Left

_MAGIC = "flatnet-state"
_VERSION = 1


class DamagedState(FlatnetError):
    """The file is damaged, or not ours. Nothing was taken from it."""


class State(NamedTuple):
    """What was applied.

    ``values`` are the leases as in etcd, by key name. They are parsed only when they are needed,
    which they are not when etcd answers. ``own`` is the key name of this host's lease.
    ``interface`` and ``address``, which has its prefix length, are the underlay's. ``retained`` are
    key names, and ``retained_left`` says for how long: see Retention.

    ``cluster`` is the id of the etcd that this is from, and ``revision`` etcd's revision.
    ``revisions`` are the create and mod revisions of the keys; ``config_revision`` is that of the
    config's last change. ``needed`` and ``within`` are from Needs: addresses of etcd, and addresses
    in the overlay that the host uses.
    """

    config: NetworkConfig
    values: dict[str, str]
    own: str
    revision: int
    interface: str
    address: str
    retained: tuple[str, ...] = ()
    retained_left: Left = Left()
    revisions: Mapping[str, tuple[int, int]] = MappingProxyType({})
    config_revision: int = 0
    cluster: int = 0
    needed: tuple[str, ...] = ()
    within: tuple[str, ...] = ()

    @property
    def leases(self) -> tuple[Lease, ...]:
        """All leases, this host's too; raises DamagedState."""
        return tuple(map(self.lease, self.values))

    @property
    def own_lease(self) -> Lease:
        return self.lease(self.own)

    def lease(self, name: str) -> Lease:
        try:
            created, changed = self.revisions.get(name, (0, 0))
            return parse_lease(name, self.values[name], changed, create_revision=created)
        except InvalidLease as error:
            raise DamagedState("the last applied state does not parse: %s" % error) from None


def save(path: str, state: State) -> None:
    """Write the state; after a crash at any moment the old or the new one is there, whole."""
    body = dumps(
        {
            "config": state.config.to_json(),
            "leases": state.values,
            "own": state.own,
            "revision": state.revision,
            "interface": state.interface,
            "address": state.address,
            "retained": state.retained,
            "retained_left": state.retained_left,
            "revisions": dict(state.revisions),
            "config_revision": state.config_revision,
            "cluster": state.cluster,
            "needed": state.needed,
            "within": state.within,
        }
    ).encode()
    header = "%s %d %s\n" % (_MAGIC, _VERSION, hashlib.sha256(body).hexdigest())
    replace(path, header.encode() + body, 0o600)


def load(path: str) -> State | None:
    """The state in the file, None if there is no file; raises DamagedState."""
    try:
        with open(path, "rb") as file:
            header, _newline, body = file.read().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedState("the state %s cannot be read: %s" % (path, error.strerror)) from None
    words = header.split()
    if len(words) != 3 or words[0] != _MAGIC.encode():
        raise DamagedState("%s is not a state of this program; remove it" % path)
    if words[1] != b"%d" % _VERSION:
        raise DamagedState(
            "the state %s is of version %s, this program reads version %d; it is written anew when "
            "etcd answers" % (path, words[1].decode("ascii", "replace"), _VERSION)
        )
    if words[2].decode("ascii", "replace") != hashlib.sha256(body).hexdigest():
        raise DamagedState(
            "the state %s is damaged: its checksum does not fit; nothing was restored from it; it "
            "is written anew when etcd answers" % path
        )
    try:
        return _parse(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, InvalidConfig) as error:
        raise DamagedState("the state %s does not parse: %s" % (path, error)) from None


def _left(found: Sequence[Any]) -> Left:
    seconds, boot, at = found
    return Left(float(seconds), str(boot), float(at))


def _parse(found: dict[str, Any]) -> State:
    if "revisions" not in found:
        # Of an earlier version: what that had applied stays until etcd tells more.
        found["revisions"] = dict.fromkeys(found["leases"], (1, 0))
        found["config_revision"] = 2
    state = State(
        parse_config(found["config"]),
        {str(name): str(value) for name, value in found["leases"].items()},
        str(found["own"]),
        int(found["revision"]),
        str(found["interface"]),
        str(found["address"]),
        tuple(map(str, found["retained"])),
        # Those of before did not have these; how long is for whoever resumes it to bound.
        _left(found.get("retained_left", (math.inf, "", 0))),
        {
            str(name): (int(created), int(changed))
            for name, (created, changed) in found["revisions"].items()
        },
        int(found.get("config_revision", 0)),
        int(found.get("cluster", 0)),
        tuple(map(str, found.get("needed", ()))),
        tuple(map(str, found.get("within", ()))),
    )
    if not state.values.keys() >= set(state.retained):
        raise ValueError("a retained lease is not in it")
    if state.own not in state.values:
        raise ValueError("this host's own lease %s is not in it" % state.own)
    return state
