# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules share that change the kernel: one course of check mode, diff and result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, Callable, Protocol

from ansible.module_utils.basic import AnsibleModule

from .entries import Entry, Link
from .kernel import Kernel
from .links import LinkPlan, describe
from .lock import locked
from .plan import Changes, diff, outcome


def changing(module: AnsibleModule) -> contextlib.AbstractContextManager[None]:
    """Holds the lock that the resident program takes as well; check mode needs none."""
    return contextlib.nullcontext() if module.check_mode else locked()


class Besides(Protocol):
    """What a run changes apart from the kernel: relay_table.TableRun."""

    def plan(self) -> tuple[Any, ...]: ...

    def write(self) -> None: ...

    def inform(self, check_mode: bool) -> tuple[Any, str]: ...


def converge(
    module: AnsibleModule,
    kernel: Kernel,
    compute: Callable[[], Changes],
    relay: Besides | None = None,
    **result: Any,
) -> None:
    """Bring the kernel where ``compute`` wants it, or in check mode only say how; exits. ``relay``
    is what there is to change apart from the kernel; the relay is told without the lock."""
    changes: tuple[Any, ...] = ()
    with changing(module):
        if relay:
            changes = relay.plan()
        changes = (*kernel.converge(compute, module.check_mode), *changes)
        if relay and not module.check_mode:
            relay.write()
    if relay:
        late, problem = relay.inform(module.check_mode)
        changes = (*changes, late) if late else changes
        if problem:
            module.warn(problem)
    module.exit_json(changed=bool(changes), diff=diff(changes), **result)


def converge_link(
    module: AnsibleModule,
    kernel: Kernel,
    name: str,
    compute: Callable[[Link | None, list[Entry]], LinkPlan],
) -> tuple[LinkPlan, dict[str, Any]]:
    """The same for one device; ``compute`` is given it and all it holds. Returns the plan, and the
    module's result with the device and its addresses as they are, or in check mode would be."""
    looks: list[tuple[list[Entry], LinkPlan]] = []

    def look() -> Changes:
        link, held = kernel.link(name), kernel.held(name)
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
