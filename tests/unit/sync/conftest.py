# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts that tests of the agent begin with."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from tests.unit.sync.fake_loop import Loop
from tests.unit.sync.fakes import World, lease, world


@pytest.fixture
def host(tmp_path: Path) -> t.Iterator[World]:
    """A host among three peers, before its first listing."""
    with world(tmp_path) as made:
        made.etcd.put_lease(lease(1), lease(2), lease(3))
        yield made


@pytest.fixture
def running(host: World) -> World:
    """The same after its first listing, saved."""
    host.list()
    host.agent.save()
    host.log.clear()
    return host


@pytest.fixture
def loop(host: World) -> Loop:
    """Its service, not yet started."""
    return Loop(host)
