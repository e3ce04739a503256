# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The etcd revision that was last applied to this host, by a module or by flatnet-sync.

Each of them reads the leases first, and takes the host's lock then. In between, another one may
have applied newer leases, which must not be undone. So each notes, under the lock, which revision
it applied, and a module looks at the note before it applies.

The note is in /run, because the kernel's entries do not outlive a boot either. There is one note
for each network, since a host may have several networks, of several etcds. Leases of revision 0
have no known revision: they are neither older nor newer than others.
"""

from __future__ import annotations

import contextlib
import json

from ..errors import FlatnetError, InvalidInput
from ..fields import is_number, load_object
from ..host import files

PATH = "/run/flatnet/applied"


class Outdated(FlatnetError):
    """Leases of a higher revision, ``newest``, were applied already."""

    def __init__(self, revision: int, newest: int) -> None:
        super().__init__(
            "the leases are of revision %d, and revision %d was applied to this host meanwhile"
            % (revision, newest)
        )
        self.newest = newest


def newest(network: str, path: str = PATH) -> int:
    """The revision that was applied last; 0 if nobody knows."""
    found = _read(path).get(network)
    return found if isinstance(found, int) and is_number(found) else 0


def check(network: str, revision: int, other: int, known: int) -> bool:
    """Whether leases of ``revision`` may be applied as usual. Call it under the lock.

    ``other`` is a revision that something else here was made of; 0 if nothing. Raises Outdated if a
    newer revision was applied. The caller then reads the leases again, and passes the ``newest`` of
    this error as ``known``. If the leases are of a lower revision still, etcd has another history:
    then this returns False, and the leases are applied.
    """
    last = max(newest(network), other)
    if not 0 < revision < last:
        return True
    if last != known:
        raise Outdated(revision, last)
    return False


def note(network: str, revision: int, path: str = PATH) -> None:
    """Note the revision that was applied just now; 0 removes the note. Call it under the lock."""
    known = _read(path)
    if known.get(network, 0) == revision:
        return
    known[network] = revision
    kept = {each: known[each] for each in sorted(known) if known[each]}
    # Without a note, an older run may undo what was applied now, until the next comparison.
    with contextlib.suppress(OSError):
        if kept:
            files.replace(path, json.dumps(kept).encode() + b"\n", 0o644)
        else:
            files.remove(path)


def _read(path: str) -> dict[str, object]:
    with contextlib.suppress(OSError, InvalidInput), open(path, "rb") as file:
        return load_object(file.read(1 << 16), InvalidInput, path)
    return {}
