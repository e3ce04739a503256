# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests wait for conditions, never for the clock."""

from __future__ import annotations

import time
import typing as t

#: Seconds that anything may take, on a machine however busy. How fast something is, benchmarks say.
PATIENCE = 90.0
_PAUSE = 0.03

T = t.TypeVar("T")


def wait(found: t.Callable[[], T], what: str = "") -> T:
    """Poll until what is found is true; return it. Fails after PATIENCE."""
    until = time.monotonic() + PATIENCE
    while True:
        # Begun before the end, so that a machine that stood still gets another look.
        last = time.monotonic() > until
        value = found()
        if value:
            return value
        assert not last, f"{what or found} does not come within {PATIENCE:.0f} s"
        time.sleep(_PAUSE)
