# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all modules that change entries share: check mode, diff and result, in the same way."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Protocol

from ..kernel.kernel import NEEDS_ROOT, Kernel, RefusedChange
from ..kernel.plan import Change, Changes, diff
from .module import AnsibleModule, changing


class Besides(Protocol):
    """What a run changes beside the kernel: relay_table.TableRun."""

    def plan(self) -> tuple[Any, ...]: ...

    def write(self) -> None: ...

    def inform(self, check_mode: bool) -> tuple[Any, str]: ...


class Around(NamedTuple):
    """What is done under the lock: ``first`` before all else; ``last`` after it, but not in check
    mode."""

    first: Callable[[], None]
    last: Callable[[], None]


def converge(
    module: AnsibleModule,
    kernel: Kernel,
    compute: Callable[[], Changes],
    relay: Besides | None = None,
    around: Around | None = None,
    **result: Any,
) -> None:
    """Make the changes that ``compute`` returns, or in check mode only show them; exits. ``relay``
    is what to change beside the kernel. The relay is told after the lock is released."""

    def make() -> tuple[Changes, dict[str, RefusedChange]]:
        return kernel.converge(compute, module.check_mode), {}

    _converge(module, make, str, relay, around, result)


def converge_apart(
    module: AnsibleModule,
    kernel: Kernel,
    compute: Callable[[frozenset[str]], Changes],
    part: Callable[[Change], str | None],
    name: Callable[[str], str],
    relay: Besides | None = None,
    around: Around | None = None,
    **result: Any,
) -> None:
    """As ``converge``, but a part whose change is refused fails alone. All other changes are made.
    Then the run fails, with the ``name`` of every part that was refused."""

    def make() -> tuple[Changes, dict[str, RefusedChange]]:
        return kernel.converge_apart(compute, part, module.check_mode)

    _converge(module, make, name, relay, around, result)


def _converge(
    module: AnsibleModule,
    make: Callable[[], tuple[Changes, dict[str, RefusedChange]]],
    name: Callable[[str], str],
    relay: Besides | None,
    around: Around | None,
    result: dict[str, Any],
) -> None:
    more: tuple[Any, ...] = ()
    with changing(module):
        if around:
            around.first()
        if relay:
            more = relay.plan()
        made, refused = make()
        if relay and not module.check_mode:
            relay.write()
        if around and not module.check_mode:
            around.last()
    changes: tuple[Any, ...] = (*made, *more)
    if relay:
        late, problem = relay.inform(module.check_mode)
        changes = (*changes, late) if late else changes
        if problem:
            module.warn(problem)
    result.update(changed=bool(changes), diff=diff(changes))
    if not refused:
        module.exit_json(**result)
    named = ["%s: %s" % (name(each), reason) for each, reason in refused.items()]
    first = next(iter(refused.values())).refusal
    module.fail_json(
        msg="the kernel refuses what %d peers need: %s%s; all else is done%s"
        % (
            len(named),
            "; ".join(named[:5]),
            "; ..." if len(named) > 5 else "",
            "; " + NEEDS_ROOT if first.needs_root else "",
        ),
        refused=named,
        **result,
    )
