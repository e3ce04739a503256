# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel of the network namespace we run in: apply changes to it. reader.py observes it.

Devices have many options, so they go through devices.py and pyroute2, which most tasks do without.
A device has thousands of entries, so these go through netlink.py, which needs no library.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Iterable, Iterator
from typing import Callable, NamedTuple

from ..errors import FlatnetError
from . import messages, netlink
from .entries import (
    Address,
    Link,
)
from .netlink import Refusal, by_name
from .plan import Change, Changes, inverse
from .reader import KernelReader

# Of converge_apart: a round is needed if the one before has found another part that fails.
_ROUNDS = 8
_GONE = (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)


NEEDS_ROOT = "changing the network needs root (CAP_NET_ADMIN)"


class RefusedChange(NamedTuple):
    """A change that was not made, and why."""

    change: Change
    refusal: Refusal

    def __str__(self) -> str:
        return "%s: %s" % self


class KernelError(FlatnetError):
    """Changes were not made; ``refused`` has each of them."""

    def __init__(self, message: str, refused: tuple[RefusedChange, ...] = ()) -> None:
        super().__init__(message)
        self.refused = refused

    @property
    def errno(self) -> int:
        """The kernel's first refusal; 0 if it has given no number."""
        return next((each.refusal.errno for each in self.refused if each.refusal.errno), 0)


class Kernel(KernelReader):
    """As KernelReader, and changes what it reads. One that also changes devices is a DeviceKernel:
    see devices.py."""

    def apply(self, changes: Changes) -> None:
        """Carry out ``changes`` in order; if one is refused, take back those already done.

        Raises KernelError with every refused entry of the failing step.
        """
        done: list[Change] = []
        for dummy, step in itertools.groupby(changes, key=lambda change: change.kind):
            batch = list(step)
            refused = self._step(batch)
            done += [change for index, change in enumerate(batch) if index not in refused]
            if refused:
                raise self._unwound(tuple(refused.values()), done)

    def apply_apart(
        self, changes: Changes, part: Callable[[Change], str | None]
    ) -> dict[str, RefusedChange]:
        """As ``apply``, but a part whose change is refused fails alone: its other changes are taken
        back, and the changes of all other parts are made. Returns the parts that failed, each with
        its first refusal.

        All parts depend on changes of no part (None). If one of these is refused, everything is
        taken back, and this raises KernelError.
        """
        done: list[Change] = []
        failed: dict[str, RefusedChange] = {}
        for dummy, step in itertools.groupby(changes, key=lambda change: change.kind):
            batch = [change for change in step if part(change) not in failed]
            refused = self._step(batch) if batch else {}
            done += [change for index, change in enumerate(batch) if index not in refused]
            base = tuple(each for each in refused.values() if part(each.change) is None)
            if base:
                raise self._unwound(base, done)
            for each in refused.values():
                failed.setdefault(part(each.change) or "", each)
        self._take_back([change for change in done if part(change) in failed])
        return failed

    def converge_apart(
        self,
        compute: Callable[[frozenset[str]], Changes],
        part: Callable[[Change], str | None],
        check_mode: bool = False,
    ) -> tuple[Changes, dict[str, RefusedChange]]:
        """As ``converge``, but a part whose change is refused fails alone. ``compute`` is given the
        parts that failed, and plans without them, so that nothing of them stays half done.

        Returns the changes made, and the parts that failed, each with the first refusal.
        """
        made: Changes = ()
        refused: dict[str, RefusedChange] = {}
        # What the last round made, if nothing of it was refused.
        last: frozenset[Change] = frozenset()
        for dummy in range(_ROUNDS):
            changes = compute(frozenset(refused))
            if not changes or check_mode:
                return (*made, *changes), refused
            # What is left may also come of what was made: with another MAC, the kernel forgets a
            # device's neighbours.
            again = tuple(change for change in changes if change in last)
            if again:
                left = tuple(change for change in again if part(change) is None)
                if left:
                    raise _not_done(made, left)
                found = {
                    part(change) or "": RefusedChange(
                        change, Refusal(0, "acknowledged, but not done")
                    )
                    for change in again
                }
                last = frozenset()
            else:
                found = self.apply_apart(changes, part)
                made += tuple(change for change in changes if part(change) not in found)
                last = frozenset() if found else frozenset(changes)
            refused.update(found)
        raise _not_done(made, compute(frozenset(refused)))

    def converge(self, compute: Callable[[], Changes], check_mode: bool) -> Changes:
        """Apply what ``compute`` plans from a fresh observation, then check that nothing is left.

        Returns the changes. In check mode they are only planned. The check is needed, because the
        kernel acknowledges some requests without doing anything.
        """
        changes = compute()
        if changes and not check_mode:
            self.apply(changes)
            left = compute()
            if left:
                raise _not_done(changes, left)
        return changes

    def _unwound(self, refused: tuple[RefusedChange, ...], done: list[Change]) -> KernelError:
        left = self._take_back(done)
        words = "the kernel refused to %s" % (refused[0],)
        if len(refused) > 1:
            words += "; and %d more" % (len(refused) - 1)
        if any(each.refusal.needs_root for each in refused):
            words += "; " + NEEDS_ROOT
        if left:
            words += "; could not be taken back: " + "; ".join(left[:5])
        elif done:
            words += "; the %d changes made before were taken back" % len(done)
        return KernelError(words, refused)

    def _take_back(self, done: list[Change]) -> list[str]:
        """Undo changes. Returns what could not be undone, with the reason."""
        left: list[str] = []
        for dummy, step in itertools.groupby(inverse(done), key=lambda change: change.kind):
            left += map(str, self._step(list(step)).values())
        return left

    def _step(self, batch: list[Change]) -> dict[int, RefusedChange]:
        """Changes of one kind; the refused ones by their index."""
        if batch[0].kind is Link:
            refused = self._change_devices(batch)
        else:
            with _promoting(each for each in batch if each.after is None):
                refused = self._send(batch)
        return {index: RefusedChange(batch[index], why) for index, why in sorted(refused.items())}

    def _change_device(self, before: Link | None, after: Link | None) -> Refusal | None:
        """Make, change or remove a device; None if that was done. See devices.py."""
        raise NotImplementedError

    def _change_devices(self, batch: list[Change]) -> dict[int, Refusal]:
        """Devices, one after the other; none is tried after one that was refused."""
        refused: dict[int, Refusal] = {}
        for index, change in enumerate(batch):
            if refused:
                refused[index] = Refusal(0, "not tried")
                continue
            refusal = self._change_device(change.before, change.after)  # type: ignore[arg-type]
            if refusal:
                refused[index] = refusal
        return refused

    def _send(self, batch: list[Change]) -> dict[int, Refusal]:
        """Entries of one kind, as one batch; the refused ones by their index."""
        devices = by_name()
        sent: list[int] = []
        requests: list[netlink.Message] = []
        refused: dict[int, Refusal] = {}
        for index, (before, after) in enumerate(batch):
            try:
                parts = messages.encode(before, after, devices)  # type: ignore[arg-type]
                requests += parts
                sent += [index] * len(parts)
            except KeyError as missing:
                if after is not None:
                    refused[index] = Refusal(0, "device %s does not exist" % missing.args[0])
        for number, refusal in self._netlink.batch(requests).items():
            index = sent[number]
            if batch[index].after is not None or refusal.errno not in _GONE:
                refused[index] = refusal
        return refused


def _not_done(changes: Changes, left: Changes) -> KernelError:
    return KernelError(
        "the kernel acknowledged all %d changes, but %d objects are not as they should be: %s; "
        "look for a program on this host that changes them back"
        % (len(changes), len(left), "; ".join(str(change) for change in left[:5])),
        tuple(RefusedChange(change, Refusal(0, "not done")) for change in left),
    )


def _conf(device: str, name: str) -> str:
    return "/proc/sys/net/ipv4/conf/%s/%s" % (device, name)


@contextlib.contextmanager
def _promoting(batch: Iterable[Change]) -> Iterator[None]:
    """Make the kernel keep a device's other addresses while primary ones are removed.

    By default the kernel removes, with an address, all later ones of the same prefix.
    """
    changed: dict[str, str] = {}
    for device in {each.before.dev for each in batch if isinstance(each.before, Address)}:
        path = _conf(device, "promote_secondaries")
        try:
            with open(path, "r+", encoding="ascii") as file:
                value = file.read()
                if not int(value):
                    file.seek(0)
                    file.write("1")
                    changed[path] = value
        except OSError:  # the device is gone, or /proc is read-only: converge() would notice
            continue
    try:
        yield
    finally:
        for path, value in changed.items():
            with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
                file.write(value)
