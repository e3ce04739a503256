# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel tells of devices, where no kernel of the tests has such devices."""

from __future__ import annotations

import struct

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel import linkinfo

_NAME, _LINK, _NAMESPACE = 3, 5, 37


@pytest.mark.parametrize(
    ("attributes", "index"),
    [
        ({_LINK: 7}, 7),  # br100.10@br100
        ({}, 0),
        ({_LINK: 7, _NAMESPACE: 0}, 0),  # a pair's other end is elsewhere, and 7 its number there
    ],
)
def test_the_device_that_another_one_stands_on(attributes: dict[int, int], index: int) -> None:
    body = linkinfo.request(9) + struct.pack("=HH8s", 12, _NAME, b"x")
    for number, value in attributes.items():
        body += struct.pack("=HHI", 8, number, value)
    assert linkinfo.below(body) == index
