# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules that change a device share: check mode, diff and result, in the same way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

from ..kernel.entries import Entry, Link
from ..kernel.kernel import Kernel
from ..kernel.links import LinkPlan, describe
from ..kernel.plan import Changes, diff, outcome
from .module import AnsibleModule, changing


def converge_link(
    module: AnsibleModule,
    kernel: Kernel,
    name: str,
    compute: Callable[[Link | None, list[Entry]], LinkPlan],
) -> tuple[LinkPlan, dict[str, Any]]:
    """Make the changes of one device that ``compute`` returns, or in check mode only show them.

    ``compute`` is given the device and all that it holds. Returns the plan and the module's result,
    with the device and its addresses as they are, or in check mode would be.
    """
    looks: list[tuple[list[Entry], LinkPlan]] = []

    def look() -> Changes:
        link, held = kernel.link(name), kernel.entries_on(name)
        looks.append((([link] if link else []) + held, compute(link, held)))
        return looks[-1][1].changes

    with changing(module):
        changes = kernel.converge(look, module.check_mode)
    before, planned = looks[0]
    if module.check_mode:
        after: Iterable[Entry | None] = outcome(changes, before)
    else:
        after = [kernel.link(name), *kernel.addresses(name)]
    for reason in planned.recreated:
        made = "would be" if module.check_mode else "was"
        module.warn("device %s %s made anew: %s" % (name, made, reason))
    return planned, {
        "changed": bool(changes),
        "diff": diff(changes),
        **describe(name, after),
    }
