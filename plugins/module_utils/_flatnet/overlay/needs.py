# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Needed addresses: a host has to reach them apart from the overlay, so no lease may cover them.

Somebody who can write leases must not be able to cut a host off from etcd, from its gateways and
resolvers, or from whoever manages it. With etcd inside a tunnel, the host could not even see that
the lease was removed again.

A fleet may have a resolver, a time server or its controller in a pod. Such an address is in the
overlay on purpose: the host reaches it through the overlay when it first hears of it. So a lease
stays in use when a file begins to name one of its addresses. But no new lease may cover an address
that the host has reached in another way before.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterable, Mapping
from typing import Callable
from urllib.parse import urlsplit

from ..kernel.entries import Address, Route

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
_MOST_ETCD = 64  # addresses of etcd's names that are kept, whatever a name server says

ETCD, GATEWAY, RESOLVER = "an address of etcd", "a gateway of this host", "a resolver of this host"
CLOCK, CONTROLLER = "a time server of this host", "where this host is managed from"


class Needs:
    """The needed addresses of this host.

    ``endpoints`` are etcd's URLs. ``controllers`` are addresses of those who manage this host.
    ``overlaid`` says whether an address is reached through the overlay now.

    ``etcd`` keeps the last addresses that were seen of etcd, because the name of an endpoint may
    not resolve later. ``within`` has the addresses that are in the overlay on purpose, also while
    their peer is away. Whoever uses this keeps both on disk.
    """

    def __init__(
        self,
        endpoints: Iterable[str] = (),
        controllers: Iterable[str] = (),
        overlaid: Callable[[str], bool] = lambda _address: False,
    ) -> None:
        hosts = [urlsplit(each).hostname or "" for each in endpoints]
        self._literal = _ipv4(hosts)
        self._seen: tuple[str, ...] = ()
        self._overlaid = overlaid
        self.within: frozenset[str] = frozenset()
        self._names = [each for each in hosts if not _ipv4([each])]
        self._controllers = _ipv4(controllers)
        self._asking: threading.Thread | None = None

    def seen(self, addresses: Iterable[str]) -> None:
        """Note addresses of etcd that connections have led to."""
        new = list(dict.fromkeys(_ipv4(addresses)))
        self._seen = (*(each for each in self._seen if each not in new), *new)[-_MOST_ETCD:]

    @property
    def etcd(self) -> frozenset[str]:
        """Addresses of etcd."""
        return frozenset((*self._literal, *self._seen))

    def resolve(self, seconds: float) -> None:
        """Resolve the endpoints' names, as far as that is possible within ``seconds``."""
        self.resolve_aside()
        if self._asking:
            self._asking.join(seconds)

    def _resolve(self) -> None:
        for name in self._names:
            with contextlib.suppress(OSError, UnicodeError):
                found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
                self.seen(str(each[4][0]) for each in found)

    def resolve_aside(self) -> None:
        """As ``resolve``, without waiting."""
        if self._names and not (self._asking and self._asking.is_alive()):
            self._asking = threading.Thread(target=self._resolve, daemon=True)
            self._asking.start()

    def look(self, addresses: Iterable[Address], routes: Iterable[Route]) -> dict[str, str]:
        """The needed addresses, each with what it is, in words. ``addresses`` are the host's own,
        without those of the overlay's devices. Only gateways on the devices of these count."""
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
        self.within = frozenset(
            each
            for each, words in found.items()
            if words not in (ETCD, GATEWAY) and (each in self.within or self._overlaid(each))
        )
        return {each: words for each, words in found.items() if each not in self.within}


def controllers(environment: Mapping[str, str] | None = None) -> list[str]:
    """The address that this process's SSH session comes from; empty if there is no session.

    sudo and similar programs mostly clear the environment. Then this looks at that of the process's
    ancestors.
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
    """What the pattern finds in the files, as far as they exist."""
    found: list[str] = []
    for path in paths:
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            found += pattern.findall(file.read(_MOST))
    return found


def _ipv4(words: Iterable[str]) -> list[str]:
    """The words that are IPv4 addresses, also mapped to IPv6, without loopback addresses."""
    found = []
    for word in words:
        text = word[7:] if word.lower().startswith("::ffff:") else word
        with contextlib.suppress(OSError, ValueError):
            number = socket.inet_pton(socket.AF_INET, text)
            if number[0] not in (0, 127):
                found.append(text)
    return found
