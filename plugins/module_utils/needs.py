# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses a host has to reach apart from the overlay, so that no lease may cover them.

Whoever can write leases must not thereby take a host's way to etcd, to its gateways and resolvers,
or to whoever looks after it: with etcd inside a tunnel, not even taking the lease back would help.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from .entries import Address, Route

# The second has what systemd-resolved asks, where the first names only itself.
_RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
_CLOCKS = (
    "/etc/systemd/timesyncd.conf",
    "/etc/chrony/chrony.conf",
    "/etc/chrony.conf",
    "/etc/ntp.conf",
    "/etc/ntpsec/ntp.conf",
)
_CLOCK = re.compile(r"^\s*(?:(?:server|pool|peer)\s+|(?:Fallback)?NTP=)(.*)$", re.MULTILINE)
_NAMESERVER = re.compile(r"^\s*nameserver\s+(\S+)", re.MULTILINE)
_MOST = 1 << 16  # bytes of a file that are read

ETCD, GATEWAY, RESOLVER = "an address of etcd", "a gateway of this host", "a resolver of this host"
CLOCK, CONTROLLER = "a time server of this host", "where this host is managed from"


class Needs:
    """``endpoints`` are etcd's URLs, ``controllers`` addresses of those who manage this host.

    An endpoint's name may stand for another address tomorrow, and nobody may be there to tell: all
    that were seen once are kept in ``etcd``, which survives on disk.
    """

    def __init__(self, endpoints: Iterable[str] = (), controllers: Iterable[str] = ()) -> None:
        hosts = [urlsplit(each).hostname or "" for each in endpoints]
        self.etcd: set[str] = set(_ipv4(hosts))
        self._names = [each for each in hosts if not _ipv4([each])]
        self._controllers = _ipv4(controllers)
        self._asking: threading.Thread | None = None

    def seen(self, addresses: Iterable[str]) -> None:
        """These are etcd's as well: connections led there."""
        self.etcd |= set(_ipv4(addresses))

    def resolve(self) -> None:
        """Find out what the endpoints' names stand for, which may take as long as it takes."""
        for name in self._names:
            with contextlib.suppress(OSError, UnicodeError):
                found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
                self.seen(str(each[4][0]) for each in found)

    def resolve_aside(self) -> None:
        """The same, without waiting for it."""
        if self._names and not (self._asking and self._asking.is_alive()):
            self._asking = threading.Thread(target=self.resolve, daemon=True)
            self._asking.start()

    def look(self, addresses: Iterable[Address], routes: Iterable[Route]) -> dict[str, str]:
        """Addresses, and what they are. ``addresses`` are the host's own apart from the overlay's
        devices; only gateways on their devices count."""
        devices = {each.dev for each in addresses}
        gateways = [each.gateway or "" for each in routes if each.dev in devices]
        found: dict[str, str] = {}
        for words, given in (
            (CLOCK, _clocks()),
            (CONTROLLER, self._controllers),
            (RESOLVER, _found(_NAMESERVER, _RESOLVERS)),
            (GATEWAY, gateways),
            (ETCD, sorted(self.etcd)),
        ):
            found.update(dict.fromkeys(_ipv4(given), words))
        return found


def controllers(environment: Mapping[str, str] | None = None) -> list[str]:
    """Where the SSH session comes from that this process belongs to; nothing without one.

    Whatever makes a session root, such as sudo, mostly clears the environment: then an ancestor's
    is looked at.
    """
    found = _client(os.environ if environment is None else environment)
    pid = os.getppid()
    while not found and pid > 1:
        try:
            with open("/proc/%d/environ" % pid, "rb") as file:
                lines = file.read(_MOST).decode("utf-8", "replace").split("\0")
            with open("/proc/%d/stat" % pid, "rb") as file:
                pid = int(file.read(_MOST).rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
        found = _client(dict(each.partition("=")[::2] for each in lines))
    return found


def _client(environment: Mapping[str, str]) -> list[str]:
    words = (environment.get("SSH_CONNECTION") or environment.get("SSH_CLIENT") or "").split()
    return _ipv4(words[:1])


def _clocks() -> list[str]:
    return [word for line in _found(_CLOCK, _CLOCKS) for word in line.split()]


def _found(pattern: re.Pattern[str], paths: Iterable[str]) -> list[str]:
    """What the pattern finds in those of the files that there are."""
    found: list[str] = []
    for path in paths:
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            found += pattern.findall(file.read(_MOST))
    return found


def _ipv4(words: Iterable[str]) -> list[str]:
    """Those that are IPv4 addresses, also in IPv6's form, without loopback's."""
    found = []
    for word in words:
        text = word[7:] if word.lower().startswith("::ffff:") else word
        with contextlib.suppress(OSError, ValueError):
            number = socket.inet_pton(socket.AF_INET, text)
            if number[0] not in (0, 127):
                found.append(text)
    return found
