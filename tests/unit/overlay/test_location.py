# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which devices of a host are the overlay's own."""

from __future__ import annotations

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.flannel.config import (
    parse_config,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.location import (
    between,
)

from tests.unit.given import CONFIG


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("100.96.0.255/24", False),
        ("100.96.1.0/24", True),
        ("100.96.255.255/32", True),
        ("100.97.0.0/8", False),
        ("fd00::1/64", False),
    ],
)
def test_an_address_is_leasable_from_subnet_min_to_subnet_max(address: str, inside: bool) -> None:
    pool = parse_config(CONFIG).ipv4
    assert between(address, pool.subnet_min, pool.subnet_max) == inside
