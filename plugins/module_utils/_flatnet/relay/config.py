# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's two files: its settings, which it reads at its start, and its table of peers, which
it reads anew whenever it is told to.

Both are JSON. Root writes them, and the relay's user reads them. Errors name the file and the
field.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from typing import Any, NamedTuple

from ..errors import InvalidInput
from ..fields import dumps, is_number, load_object, show

SETTINGS_PATH = "/etc/flatnet/relay.json"
TABLE_PATH = "/var/lib/flatnet/relay-table.json"
CONTROL_PATH = "/run/flatnet-relay/control"

_MOST_WORKERS = 16


class InvalidRelayConfig(InvalidInput):
    """The relay's settings or its table are missing or broken."""


class RelaySettings(NamedTuple):
    """One relay. ``address`` is the device's, and the source of ICMP errors to peers. ``subnet`` is
    this host's. ``listen`` is this host's address in the underlay. ``mtu`` is the device's.

    ``vector``: send vectors to the peers that read them. ``workers``: how many processes carry
    packets, each with a queue of the device; 0 chooses by the number of cores. ``user``: the user
    that the relay becomes if root has started it.
    """

    device: str
    address: str
    subnet: str
    network: str
    listen: str
    mtu: int
    port: int = 8285
    vector: bool = True
    workers: int = 0
    user: str = ""
    table_file: str = TABLE_PATH
    control: str = CONTROL_PATH
    metrics_file: str | None = None

    def to_json(self) -> str:
        """What ``parse_settings`` reads back; defaults left out."""
        defaults = self._field_defaults
        out = {k: v for k, v in self._asdict().items() if k not in defaults or v != defaults[k]}
        return json.dumps(out, indent=2, sort_keys=True) + "\n"


class RelayPeer(NamedTuple):
    """A peer. ``vector`` is the newest format of vectors that it reads, as its lease says; 0: it
    reads flannel's datagrams only."""

    subnet: str
    address: str
    vector: int = 0

    def __str__(self) -> str:
        return "relay %s to %s, vector %d" % self


class RelayTable(NamedTuple):
    """The peer of each subnet, as of an etcd revision; 0 if a user wrote the table."""

    peers: tuple[RelayPeer, ...] = ()
    revision: int = 0

    def to_json(self) -> str:
        """What ``parse_table`` reads back; the same peers are always the same text."""
        peers = [list(peer) for peer in sorted(self.peers)]
        return dumps({"revision": self.revision, "peers": peers}) + "\n"

    @property
    def digest(self) -> str:
        """Two tables have the same digest only if they are the same."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def load_settings(path: str = SETTINGS_PATH) -> RelaySettings:
    """Read and check; raises InvalidRelayConfig."""
    return parse_settings(_read(path, "settings"), "settings %s" % path)


def load_table(path: str = TABLE_PATH) -> RelayTable:
    """Read and check; raises InvalidRelayConfig."""
    return parse_table(_read(path, "table"), "table %s" % path)


def parse_settings(text: str | bytes, what: str = "settings") -> RelaySettings:
    found = load_object(text, InvalidRelayConfig, what)
    defaults = RelaySettings._field_defaults
    unknown = sorted(set(found) - set(RelaySettings._fields))
    missing = [name for name in RelaySettings._fields if name not in {**defaults, **found}]
    if unknown or missing:
        words = "there is no field %s" % unknown[0] if unknown else "%s is missing" % missing[0]
        raise InvalidRelayConfig("%s: %s" % (what, words))
    for name, value in found.items():
        kind = bool if name == "vector" else int if name in _RANGES else str
        if not isinstance(value, kind) or (kind is int and not is_number(value)):
            raise InvalidRelayConfig("%s: %s: %s is of the wrong type" % (what, name, show(value)))
    for name, (low, high) in _RANGES.items():
        if name in found and not low <= found[name] <= high:
            raise InvalidRelayConfig(
                "%s: %s: %d is not from %d to %d" % (what, name, found[name], low, high)
            )
    for name in ("address", "listen"):
        _address("%s: %s" % (what, name), found[name])
    for name in ("subnet", "network"):
        _network("%s: %s" % (what, name), found[name])
    return RelaySettings(**found)


# The highest format of vectors: the relay keeps it in a byte.
_NEWEST = 255
# IPv4's smallest MTU; the largest that fits in a datagram.
_RANGES = {"mtu": (68, 65507), "port": (1, 65535), "workers": (0, _MOST_WORKERS)}


def parse_table(text: str | bytes, what: str = "table") -> RelayTable:
    found = load_object(text, InvalidRelayConfig, what)
    peers = found.get("peers")
    revision = found.get("revision", 0)
    if not isinstance(peers, list) or not is_number(revision):
        raise InvalidRelayConfig("%s: peers must be a list, revision a number" % what)
    subnets: dict[str, str] = {}
    for peer in peers:
        whole = isinstance(peer, list) and len(peer) == 3 and is_number(peer[2])
        if not whole or not 0 <= peer[2] <= _NEWEST:
            raise InvalidRelayConfig(
                "%s: %s is not a subnet, an address and a number from 0 to %d"
                % (what, show(peer), _NEWEST)
            )
        _network(what, peer[0])
        _address(what, peer[1])
        if peer[0] in subnets:
            raise InvalidRelayConfig(
                "%s: %s is both %s's and %s's" % (what, peer[0], subnets[peer[0]], peer[1])
            )
        subnets[peer[0]] = peer[1]
    return RelayTable(tuple(RelayPeer(*peer) for peer in peers), revision)


def _read(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InvalidRelayConfig(
            "%s %s cannot be read: %s" % (what, path, error.strerror)
        ) from None


def _address(where: str, text: Any) -> int:
    """An IPv4 address in canonical form, as a number; many times faster than ipaddress."""
    if isinstance(text, str):
        with contextlib.suppress(OSError, ValueError):  # ValueError: a null or a surrogate in it
            packed = socket.inet_pton(socket.AF_INET, text)
            if socket.inet_ntop(socket.AF_INET, packed) == text:
                return int.from_bytes(packed, "big")
    raise InvalidRelayConfig("%s: %s is not an IPv4 address" % (where, show(text)))


def _network(where: str, text: Any) -> None:
    if isinstance(text, str):
        address, dummy, length = text.partition("/")
        with contextlib.suppress(InvalidRelayConfig):
            first = _address(where, address)
            known = length.isdecimal() and length.isascii() and str(int(length)) == length
            if known and int(length) <= 32 and not first % (1 << 32 - int(length)):
                return
    raise InvalidRelayConfig("%s: %s is not an IPv4 network" % (where, show(text)))
