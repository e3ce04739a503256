# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether etcd goes on from what a host knows of it, or has another history.

Pure. An etcd that was restored from a backup lacks what was written after the backup. By the time
it is back its revision may be higher than the one that the host knew, and its cluster may have the
same id as before. Then a lease that it lacks looks deleted. But its keys tell:

    another cluster, or a revision that went back                         another history
    a key that was last written before the write that is known of it      another history
    a missing key that was there, as it is known, at the known revision   it was deleted since
    a missing key that was not there, or not so, at the known revision    another history
    a missing key, and the known revision is compacted                    nobody can tell
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..leases.snapshot import Snapshot


class Known(NamedTuple):
    """What a host knew of etcd. ``keys`` are the mod revisions by key name, 0 where not known."""

    revision: int
    cluster: int
    keys: Mapping[str, int]


def another(known: Known, found: Snapshot) -> str | None:
    """What shows that etcd has another history than the known one; None if nothing does."""
    if known.cluster and found.cluster and known.cluster != found.cluster:
        return "its cluster is %x, and %x was known" % (found.cluster, known.cluster)
    if found.revision < known.revision:
        return "its revision is %d, and %d was known" % (found.revision, known.revision)
    for name, revision in found.keys.items():
        if revision < known.keys.get(name, 0):
            return "its key %s is of revision %d, and %d was known" % (
                name,
                revision,
                known.keys[name],
            )
    return None


def missing(known: Known, found: Snapshot) -> dict[str, int]:
    """Known keys that are not there."""
    return {name: each for name, each in known.keys.items() if name not in found.keys}


def undeleted(gone: Mapping[str, int], then: Snapshot) -> list[str]:
    """Those of the keys that are ``gone`` which were never deleted: ``then`` is what etcd says that
    there was at the known revision, and they were not there, or not so."""
    return [
        name
        for name, revision in gone.items()
        if name not in then.keys or revision not in (0, then.keys[name])
    ]
