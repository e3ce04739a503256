# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules share that change the kernel: one course of check mode, diff and result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule

from .entries import Entry, Link
from .kernel import Kernel
from .links import LinkPlan, describe
from .lock import locked
from .plan import Changes, diff, outcome


def changing(module: AnsibleModule) -> contextlib.AbstractContextManager[None]:
    """Holds the lock that the resident program takes as well; check mode needs none."""
    return contextlib.nullcontext() if module.check_mode else locked()


def converge(
    module: AnsibleModule,
    kernel: Kernel,
    compute: Callable[[], Changes],
    others: tuple[Sequence[Any], Callable[[], object]] | None = None,
    **result: Any,
) -> None:
    """Bring the kernel where ``compute`` wants it, or in check mode only say how; exits. ``others``
    are changes apart from the kernel, with what makes them."""
    more, make = others or ((), None)
    with changing(module):
        changes = kernel.converge(compute, module.check_mode)
        if more and make and not module.check_mode:
            make()
    changes = (*changes, *more)
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
