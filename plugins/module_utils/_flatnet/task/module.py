# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all modules share: how arguments come in, and how errors reach the user.

In the core, only this file imports Ansible. What only some modules share is in other files: a
module is sent to its host with all that it imports, and is compiled there each time it runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..errors import FlatnetError, plain
from ..host.lock import installing, locked

__all__ = ["AnsibleModule", "changing", "create", "reporting", "taking_turns", "warn_each"]

# How many problems are named one by one.
_WARNINGS = 10


def create(arguments: dict[str, Any], state: bool = True, **more: Any) -> AnsibleModule:
    """An AnsibleModule with the arguments all modules have in common."""
    spec = dict(arguments)
    if state:
        spec["state"] = {"type": "str", "choices": ["present", "absent"], "default": "present"}
    if "etcd_endpoints" in spec:
        # The caller's names for options, for errors.
        spec["option_names"] = {"type": "dict", "default": {}}
    return AnsibleModule(argument_spec=spec, supports_check_mode=True, **more)


@contextlib.contextmanager
def reporting(module: AnsibleModule) -> Iterator[None]:
    """Turns the core's errors into the module's failure message."""
    try:
        yield
    except FlatnetError as error:
        # Some errors have several lines, which a command printed.
        told = error.told(module.params.get("option_names") or {})
        module.fail_json(msg="\n".join(map(plain, told.split("\n"))))
    except OSError as error:
        # Something is wrong with the host: its disk cannot be read, it has no more descriptors.
        module.fail_json(msg="%s: %s" % (error.filename or "this host", error.strerror or error))


def changing(module: AnsibleModule) -> contextlib.AbstractContextManager[None]:
    """Holds the lock that flatnet-sync takes as well. Check mode needs no lock."""
    return contextlib.nullcontext() if module.check_mode else locked()


def taking_turns(module: AnsibleModule) -> contextlib.AbstractContextManager[None]:
    """Holds the lock for what is installed on the host, so that nobody changes it between the look
    and the change. Check mode needs no lock."""
    return contextlib.nullcontext() if module.check_mode else installing()


def warn_each(module: AnsibleModule, problems: Iterable[Any], what: str) -> list[str]:
    """Warn of the first ten problems, and of how many more there are. Returns all, as texts."""
    texts = [plain(problem) for problem in problems]
    for text in texts[:_WARNINGS]:
        module.warn(text)
    if len(texts) > _WARNINGS:
        module.warn("%d more %s; see the result" % (len(texts) - _WARNINGS, what))
    return texts
