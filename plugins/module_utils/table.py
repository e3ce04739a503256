# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All peers in memory, kept up to date event by event.

Pure. A change of one lease among thousands must not cost a look at all of them: the table knows
which leases could clash with one another (peers.marks) and judges only those anew, in the same way
as peers.Rules.select judges all of them.

    etcd's events  -->  update()  -->  changes for kernel.apply()
    a new listing  -->  replace() -->  desired, for plan() against what was observed
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Callable

from .entries import Entry
from .flannel import Lease
from .peers import Rules, Skipped, marks
from .plan import Changes, plan

# From usable leases to what the kernel should hold for them.
Encode = Callable[[Iterable[Lease]], "tuple[Entry, ...]"]


class PeerTable:
    """Leases by key name, and what the kernel should hold for them, by entry key."""

    def __init__(self, rules: Rules, encode: Encode) -> None:
        self._rules = rules
        self._encode = encode
        self._marked: dict[str, set[str]] = {}
        self._entries: dict[str, tuple[Entry, ...]] = {}
        self.leases: dict[str, Lease] = {}
        self.desired: dict[Hashable, Entry] = {}
        self.skipped: dict[str, Skipped] = {}

    @property
    def peers(self) -> int:
        """How many leases are in use."""
        return len(self._entries)

    @property
    def usable(self) -> list[Lease]:
        """The leases in use."""
        return [self.leases[name] for name in self._entries]

    def replace(self, leases: Iterable[Lease]) -> None:
        """Start over from a whole listing."""
        self.leases, self._marked = {}, {}
        self._entries, self.desired, self.skipped = {}, {}, {}
        for lease in leases:
            self._add(lease)
        self._judge(self.leases)

    def update(self, changed: Mapping[str, Lease | None]) -> Changes:
        """Take in changed leases (None: gone); the changes that the kernel needs for them."""
        touched = set(changed)
        for name, lease in changed.items():
            old = self.leases.get(name)
            if old:
                touched |= self._neighbours(old)
                self._discard(old)
            if lease:
                self._add(lease)
        for name in list(touched):
            if name in self.leases:
                touched |= self._neighbours(self.leases[name])
        before = [entry for name in touched for entry in self._entries.pop(name, ())]
        for entry in before:
            self.desired.pop(entry.key, None)
        for name in touched:
            self.skipped.pop(name, None)
        self._judge(name for name in touched if name in self.leases)
        after = [entry for name in touched for entry in self._entries.get(name, ())]
        return plan(after, before)

    def _judge(self, names: Iterable[str]) -> None:
        chosen = self._rules.select(self.leases[name] for name in names)
        for each in chosen.skipped:
            self.skipped[each.lease.key_name] = each
        for lease in chosen.usable:
            entries = self._encode((lease,))
            self._entries[lease.key_name] = entries
            for entry in entries:
                self.desired[entry.key] = entry

    def _add(self, lease: Lease) -> None:
        self.leases[lease.key_name] = lease
        for mark in marks(lease):
            self._marked.setdefault(mark, set()).add(lease.key_name)

    def _discard(self, lease: Lease) -> None:
        del self.leases[lease.key_name]
        for mark in marks(lease):
            names = self._marked[mark]
            names.discard(lease.key_name)
            if not names:
                del self._marked[mark]

    def _neighbours(self, lease: Lease) -> set[str]:
        """Leases whose fate can hang on this one's, itself included, however indirectly.

        If a clashes with b and b with c, then c may be used exactly if b is not, so it takes all
        of the chain.
        """
        found: set[str] = set()
        seen: set[str] = set()
        open_marks = list(marks(lease))
        while open_marks:
            mark = open_marks.pop()
            if mark in seen:
                continue
            seen.add(mark)
            for name in self._marked.get(mark, ()):
                if name not in found:
                    found.add(name)
                    open_marks.extend(marks(self.leases[name]))
        return found
