# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules return has names of its own. The integration tests look at every result they get."""

from __future__ import annotations

import pytest

from tests.integration.results import RESERVED, documented, faults, modules


@pytest.mark.parametrize("module", modules())
def test_no_module_documents_a_key_that_ansible_reads_in_every_result(module: str) -> None:
    assert documented(module) & RESERVED == set()


def test_ansible_has_no_reserved_key_that_is_not_known_here() -> None:
    # ansible-core 2.21 has them in one place.
    task = pytest.importorskip("ansible._internal._task")
    if not hasattr(task, "UnifiedTaskResult"):
        pytest.skip("this ansible-core has no such place")
    keys = task.UnifiedTaskResult.get_result_key_to_resolved_field_mapping(source_is_module=True)
    assert {key for key in keys if not key.startswith("_ansible_")} <= RESERVED


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        ({"peers": 1, "changed": True, "diff": {}, "warnings": []}, None),
        ({"skipped": []}, "skipped, which is Ansible's own"),
        ({"changed": "yes"}, "which Ansible reads otherwise"),
        ({"more": 1}, "more, which is not documented"),
    ],
)
def test_a_result_is_judged_by_its_keys(result: dict[str, object], fault: str | None) -> None:
    found = faults("flannel_peers", result)
    assert len(found) == (fault is not None)
    assert all(str(fault) in each for each in found)
