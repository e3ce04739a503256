# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of etcd's revisions this host was last brought after, by whomever.

Whoever applies leases reads them first and takes the host's lock then. In between somebody else may
have applied newer ones, and must not be undone. So under the lock everybody notes what they
applied, and a module looks before it applies.

The note is in /run: what it tells of, the kernel's entries, does not outlive a boot either. One
for each network, since a host may have several, of several etcds. Revision 0 is somebody's word
about no revision: it is neither older nor newer than any.
"""

from __future__ import annotations

import contextlib
import json

from ..errors import FlatnetError, InvalidInput
from ..fields import is_number, load_object
from ..host import files

PATH = "/run/flatnet/applied"


class Outdated(FlatnetError):
    """Leases of a higher revision were applied already; ``newest`` is that."""

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
    """Under the lock, before leases of a revision are applied; ``other`` is of what else tells of
    one. Raises Outdated, unless it said so before and its ``newest`` is ``known``: leases that were
    read after that and are of a lower revision still are of another history, which is False."""
    last = max(newest(network), other)
    if not 0 < revision < last:
        return True
    if last != known:
        raise Outdated(revision, last)
    return False


def note(network: str, revision: int, path: str = PATH) -> None:
    """What was applied just now, under the lock; 0 takes the note away."""
    known = _read(path)
    if known.get(network, 0) == revision:
        return
    known[network] = revision
    kept = {each: known[each] for each in sorted(known) if known[each]}
    # Without it somebody who comes late may undo what is applied now, until the next look.
    with contextlib.suppress(OSError):
        if kept:
            files.replace(path, json.dumps(kept).encode() + b"\n", 0o644)
        else:
            files.remove(path)


def _read(path: str) -> dict[str, object]:
    with contextlib.suppress(OSError, InvalidInput), open(path, "rb") as file:
        return load_object(file.read(1 << 16), InvalidInput, path)
    return {}
