# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All peers in memory, kept up to date event by event.

Pure. If one lease among thousands changes, the table does not look at all of them. It knows which
leases could clash with one another, and judges only these anew, by the same rules by which
rules.Rules.select judges all.

    etcd's events  -->  update()  -->  changes for kernel.apply()
    a new listing  -->  replace() -->  desired, for plan() against what was observed
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Callable

from ..flannel.clashes import Clashes
from ..flannel.lease import Lease
from ..kernel.entries import Entry
from ..kernel.plan import Changes, plan
from .rules import Rules, Skipped

# Returns what the kernel should hold for usable leases.
Encode = Callable[[Iterable[Lease]], "tuple[Entry, ...]"]


class PeerTable:
    """Leases by key name, and what the kernel should hold for them, by entry key."""

    def __init__(self, rules: Rules, encode: Encode) -> None:
        self._rules = rules
        self._encode = encode
        self._clashes = Clashes()
        self._refused: set[str] = set()
        self._entries: dict[str, tuple[Entry, ...]] = {}
        self._owners: dict[Hashable, str] = {}
        self.leases: dict[str, Lease] = {}
        self.desired: dict[Hashable, Entry] = {}
        self.skipped: dict[str, Skipped] = {}

    @property
    def peers(self) -> int:
        """How many leases are in use."""
        return len(self._entries)

    @property
    def names(self) -> AbstractSet[str]:
        """Key names of the leases in use."""
        return self._entries.keys()

    @property
    def usable(self) -> list[Lease]:
        """The leases in use."""
        return [self.leases[name] for name in self._entries]

    def replace(self, leases: Iterable[Lease]) -> None:
        """Start over from a whole listing."""
        self.leases, self._clashes = {}, Clashes()
        self._entries, self.desired, self.skipped = {}, {}, {}
        self._refused, self._owners = set(), {}
        for lease in leases:
            self._add(lease)
        self._judge(name for name in self.leases if name not in self._refused)

    def update(self, changed: Mapping[str, Lease | None]) -> Changes:
        """Take in changed leases, by key name (None: gone). Returns the changes for the kernel."""
        touched = set(changed)
        for name, lease in changed.items():
            old = self.leases.get(name)
            if old:
                touched |= self._chain(old)
                self._discard(old)
            if lease:
                self._add(lease)
        for name in list(touched):
            if name in self.leases:
                touched |= self._chain(self.leases[name])
        before = [entry for name in touched for entry in self._entries.pop(name, ())]
        for entry in before:
            self.desired.pop(entry.key, None)
            self._owners.pop(entry.key, None)
        able = [name for name in touched if name in self.leases and name not in self._refused]
        for name in able:
            self.skipped.pop(name, None)
        self._judge(able)
        after = [entry for name in touched for entry in self._entries.get(name, ())]
        return plan(after, before)

    def rewritten(self, name: str, revision: int) -> None:
        """Note that a lease's key was written with a value that is no lease. Nothing else
        changes."""
        lease = self.leases.get(name)
        if lease:
            self.leases[name] = lease._replace(mod_revision=revision)

    def owner(self, key: Hashable) -> str | None:
        """The key name of the lease that a desired entry is for."""
        return self._owners.get(key)

    def _judge(self, names: Iterable[str]) -> None:
        chosen = self._rules.choose(self.leases[name] for name in names)
        for each in chosen.skipped:
            self.skipped[each.lease.key_name] = each
        for lease in chosen.usable:
            entries = self._encode((lease,))
            self._entries[lease.key_name] = entries
            for entry in entries:
                self.desired[entry.key] = entry
                self._owners[entry.key] = lease.key_name

    def _add(self, lease: Lease) -> None:
        self.leases[lease.key_name] = lease
        if self._rules.is_no_peer(lease):
            return
        reason = self._rules.refusal(lease)
        if reason is not None:
            # Refused for itself, so it is not judged again together with others.
            self._refused.add(lease.key_name)
            self.skipped[lease.key_name] = Skipped(lease, reason)
        else:
            self._clashes.add(lease)

    def _discard(self, lease: Lease) -> None:
        del self.leases[lease.key_name]
        self.skipped.pop(lease.key_name, None)
        if lease.key_name in self._refused:
            self._refused.discard(lease.key_name)
        elif not self._rules.is_no_peer(lease):
            self._clashes.discard(lease)

    def _chain(self, lease: Lease) -> set[str]:
        """Key names of leases that may be used, or not, depending on this one."""
        return self._clashes.chain(lease) if lease.key_name not in self._refused else set()
