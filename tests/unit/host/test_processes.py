# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which processes began before a moment, and which after it, whatever the clock says."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.host.processes import (
    born,
    ticks,
)


def test_a_process_begins_between_the_moments_around_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if somebody set the clock back to 1970.
    monkeypatch.setattr(time, "time", lambda: 0.0)
    before = ticks()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        begun = born(child.pid)
        assert begun is not None
        assert before <= begun <= ticks()


def test_this_process_began_before_now() -> None:
    begun = born(os.getpid())
    assert begun is not None
    assert begun < ticks()
