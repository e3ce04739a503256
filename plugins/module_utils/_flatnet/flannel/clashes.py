# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which leases clash, so that one of them cannot be used.

Pure. Two leases clash if their subnets overlap, because a packet can go to only one of the two
peers. They also clash if they have the same VTEP MAC, or whatever else their backend tells hosts
apart by, because a kernel cannot tell these peers apart. Subnets overlap exactly if one contains
the other. So they are found by their length and first bits, with one look-up for each length.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..addresses import ipv4_number
from .lease import Lease


class Clashes:
    """Leases, indexed by what they could clash over."""

    def __init__(self) -> None:
        self._by_mark: dict[str, dict[str, Lease]] = {}
        # By length, then by the subnet's first bits, then by key name.
        self._by_subnet: dict[int, dict[int, dict[str, Lease]]] = {}

    def add(self, lease: Lease) -> None:
        length, bits = _prefix(lease)
        self._by_subnet.setdefault(length, {}).setdefault(bits, {})[lease.key_name] = lease
        if lease.data and lease.data.unique:
            self._by_mark.setdefault(lease.data.unique, {})[lease.key_name] = lease

    def discard(self, lease: Lease) -> None:
        length, bits = _prefix(lease)
        groups = self._by_subnet[length]
        _drop(groups, bits, lease.key_name)
        if not groups:
            del self._by_subnet[length]
        if lease.data and lease.data.unique:
            _drop(self._by_mark, lease.data.unique, lease.key_name)

    def overlapping(self, lease: Lease) -> Iterable[Lease]:
        """The leases that have an address in common with this lease's subnet."""
        length, bits = _prefix(lease)
        for other, groups in self._by_subnet.items():
            if other <= length:
                yield from groups.get(bits >> length - other, {}).values()
                continue
            more = other - length
            inside = range(bits << more, bits + 1 << more)
            # Go through the smaller set: the subnets that are possible, or those that there are.
            if len(inside) < len(groups):
                found = [first for first in inside if first in groups]
            else:
                found = [first for first in groups if first in inside]
            for first in found:
                yield from groups[first].values()

    def sharing(self, lease: Lease) -> Iterable[Lease]:
        """The leases with its VTEP MAC, or whatever else the backend tells hosts apart by."""
        return self._by_mark.get(lease.data.unique if lease.data else "", {}).values()

    def reason(self, lease: Lease) -> str | None:
        """Why this lease cannot be used beside those in here; None if it can."""
        for other in self.overlapping(lease):
            return "its subnet overlaps %s of %s, which was there before" % (
                other.subnet,
                other.owner,
            )
        for other in self.sharing(lease):
            # One host may hold two subnets, with one VTEP.
            if lease.data and other.public_ip != lease.public_ip:
                return "%s is that of %s too" % (lease.data.unique, other.owner)
        return None

    def chain(self, lease: Lease) -> set[str]:
        """Key names of all leases that may be used, or not, depending on this one.

        If a clashes with b and b with c, then c may be used exactly if b is not. So these are all
        leases that clash with this one, those that clash with them, and so on.
        """
        found: set[str] = set()
        todo = [lease]
        while todo:
            each = todo.pop()
            for other in (*self.overlapping(each), *self.sharing(each)):
                if other.key_name not in found:
                    found.add(other.key_name)
                    todo.append(other)
        return found


def seniority(lease: Lease) -> tuple[bool, int, str]:
    """A sort key: of leases that clash, every host uses the first one, whose key is the oldest.

    Nobody can choose a revision, so nobody takes a holder's place with a lease that is written
    later. A lease whose revision is not known comes last.
    """
    return not lease.create_revision, lease.create_revision, lease.key_name


def _prefix(lease: Lease) -> tuple[int, int]:
    """A subnet's length and first bits."""
    address, _slash, length = lease.subnet.partition("/")
    return int(length), ipv4_number(address) >> 32 - int(length)


def _drop(groups: dict, key: object, name: str) -> None:  # type: ignore[type-arg]
    del groups[key][name]
    if not groups[key]:
        del groups[key]
