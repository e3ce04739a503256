# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units of systemd that an administrator has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install import (
    services,
    sync,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.install.installation import (
    Installation,
)

from .fake_target import FakeTarget
from .test_installation import present


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where systemd's units are."""
    monkeypatch.setattr(services, "UNITS", str(tmp_path))
    return tmp_path


def test_a_masked_service_is_refused_before_anything_changes(units: Path) -> None:
    (units / sync.SYNC).symlink_to("/dev/null")
    target = FakeTarget(systemd=True)
    target.manager.refuse_masked = services.Systemd().refuse_masked  # type: ignore[method-assign]
    with pytest.raises(services.ServiceFailed) as caught:
        Installation.observe(present(target))
    assert str(caught.value) == (
        "flatnet-sync.service is masked on this host; let it run with "
        "'systemctl unmask flatnet-sync.service'"
    )
    assert target.done == []


def test_a_link_to_a_unit_is_no_mask(units: Path) -> None:
    (units / "other").touch()
    (units / sync.SYNC).symlink_to(units / "other")
    services.Systemd().refuse_masked([sync.SYNC, sync.RESTORE])
