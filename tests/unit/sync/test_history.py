# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tells one history of etcd from another."""

from __future__ import annotations

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.leases.snapshot import (
    Snapshot,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.history import (
    Known,
    another,
    missing,
    undeleted,
)

KNOWN = Known(100, 7, {"10.5.1.0-24": 40, "10.5.2.0-24": 90})


def found(revision: int, cluster: int = 7, **keys: int) -> Snapshot:
    names = {"10.5.%s.0-24" % name[1:]: each for name, each in keys.items()}
    return Snapshot(revision, (), (), cluster, names)


@pytest.mark.parametrize(
    ("snapshot", "reason"),
    [
        (found(100, _1=40, _2=90), None),
        (found(200, _1=150, _2=90, _3=160), None),
        (found(200, _1=40), None),
        (found(200, 0, _1=40, _2=90), None),
        (found(200, 8, _1=40, _2=90), "its cluster is 8, and 7 was known"),
        (found(99, _1=40, _2=90), "its revision is 99, and 100 was known"),
        (found(200, _1=40, _2=60), "its key 10.5.2.0-24 is of revision 60, and 90 was known"),
    ],
)
def test_what_shows_another_history(snapshot: Snapshot, reason: str | None) -> None:
    assert another(KNOWN, snapshot) == reason


def test_an_etcd_of_which_nothing_is_known_has_no_other_history() -> None:
    assert another(Known(0, 0, {}), found(5, _1=3)) is None
    assert missing(Known(0, 0, {}), found(5, _1=3)) == {}


def test_a_missing_key_was_deleted_if_it_was_there_as_it_is_known() -> None:
    gone = missing(KNOWN, found(200, _3=150))
    assert gone == dict(KNOWN.keys)
    assert undeleted(gone, found(100, _1=40, _2=90)) == []
    assert undeleted(gone, found(100, _1=40, _2=80)) == ["10.5.2.0-24"]
    assert undeleted(gone, found(100, _2=90)) == ["10.5.1.0-24"]
    # A state of before does not tell the revisions.
    assert undeleted({"10.5.1.0-24": 0}, found(100, _1=40)) == []
