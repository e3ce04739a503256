# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pings many addresses at once, with one fping."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ..errors import FlatnetError

# IPv4 and ICMP headers, which fping adds to the size that it is given.
_HEADERS = 28
_TRIES, _TIMEOUT = 3, 500
_REASON = re.compile(r"(ICMP .+?) (?:from (\S+) )?for ICMP Echo sent to (\S+)")

# Runs a command with text on its standard input; gives return code, stdout, stderr.
Run = Callable[["list[str]", str], "tuple[int, str, str]"]


class PingFailed(FlatnetError):
    """fping is missing, or cannot do what it was asked."""


class Lost(NamedTuple):
    """An address that did not answer. ``size`` is that of the whole packet, in bytes; None for a
    ping of the usual size."""

    address: str
    size: int | None
    reason: str


def ping(run: Run, fping: str, source: str, addresses: Iterable[str], mtu: int) -> list[Lost]:
    """The addresses that do not answer, and those that answer small packets only.

    Those that answer get packets of ``mtu`` bytes that must not be fragmented.
    """
    everyone = list(addresses)
    silent = _fping(run, [fping, "-S", source], everyone)
    alive = [address for address in everyone if address not in silent]
    large = [fping, "-S", source, "-M", "-b", str(mtu - _HEADERS)]
    lost = [Lost(address, None, reason) for address, reason in silent.items()]
    return lost + [
        Lost(address, mtu, reason) for address, reason in _fping(run, large, alive).items()
    ]


def _fping(run: Run, command: list[str], addresses: list[str]) -> Mapping[str, str]:
    if not addresses:
        return {}
    # -i 1: a millisecond between packets, or the underlay's queues drop some of a large fleet's.
    options = ["-u", "-i", "1", "-r", str(_TRIES - 1), "-t", str(_TIMEOUT), "-B", "1"]
    code, out, err = run(command + options, "".join(address + "\n" for address in addresses))
    # 1: some did not answer. More is an error of fping's own.
    if code not in (0, 1):
        raise PingFailed(
            "%s failed (%d): %s" % (" ".join(command), code, err.strip() or out.strip())
        )
    return explain(out, err)


def explain(out: str, err: str) -> dict[str, str]:
    """The addresses that fping lists as unreachable, each with what a router said, or "no
    answer"."""
    told = {}
    for what, who, address in _REASON.findall(err):
        told[address] = "%s, says %s" % (what, who) if who else what
    return {address: told.get(address, "no answer") for address in out.split()}
