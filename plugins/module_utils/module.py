# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules share: arguments, and how errors, check mode and diff reach the user.

The only file of the core that imports Ansible.
"""

from __future__ import annotations

import contextlib
import platform
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional

from ansible.module_utils.basic import AnsibleModule

from .errors import FlatnetError, InvalidInput
from .etcd import EtcdClient
from .flannel import DEFAULT_PREFIX
from .identity import host_id
from .kernel import Kernel
from .leases import Registry
from .plan import Changes, diff

ETCD_ARGUMENTS: Dict[str, Any] = {
    "etcd_endpoints": {
        "type": "list",
        "elements": "str",
        "default": ["http://127.0.0.1:2379"],
    },
    "etcd_prefix": {"type": "str", "default": DEFAULT_PREFIX},
    "etcd_ca_file": {"type": "path"},
    "etcd_cert_file": {"type": "path"},
    "etcd_key_file": {"type": "path"},
    "etcd_username": {"type": "str"},
    "etcd_password": {"type": "str", "no_log": True},
    "etcd_timeout": {"type": "float", "default": 5.0},
}

# So many skipped keys or leases are named one by one.
_WARNINGS = 10
_MACHINE_ID = "/etc/machine-id"


def create(
    arguments: Dict[str, Any], etcd: bool = False, state: bool = True, **more: Any
) -> AnsibleModule:
    """An AnsibleModule with the arguments all modules have in common."""
    spec = dict(arguments)
    if state:
        spec["state"] = {"type": "str", "choices": ["present", "absent"], "default": "present"}
    if etcd:
        spec.update(ETCD_ARGUMENTS)
    return AnsibleModule(argument_spec=spec, supports_check_mode=True, **more)


@contextlib.contextmanager
def reporting(module: AnsibleModule) -> Iterator[None]:
    """Turns the core's errors into the module's failure message."""
    try:
        yield
    except FlatnetError as error:
        module.fail_json(msg=str(error))


@contextlib.contextmanager
def registry(module: AnsibleModule) -> Iterator[Registry]:
    """The lease registry that the etcd arguments name."""
    option = module.params
    with EtcdClient(
        option["etcd_endpoints"],
        ca_file=option["etcd_ca_file"],
        cert_file=option["etcd_cert_file"],
        key_file=option["etcd_key_file"],
        username=option["etcd_username"],
        password=option["etcd_password"],
        timeout=option["etcd_timeout"],
    ) as client:
        yield Registry(client, option["etcd_prefix"])


def converge(
    module: AnsibleModule, kernel: Kernel, compute: Callable[[], Changes], **result: Any
) -> None:
    """Bring the kernel where ``compute`` wants it, or in check mode only say how; exits."""
    changes = kernel.converge(compute, module.check_mode)
    module.exit_json(changed=bool(changes), diff=diff(changes), **result)


def warn_each(module: AnsibleModule, problems: Iterable[Any], what: str) -> List[str]:
    """Warn of each problem, the first few by name; returns all as text."""
    texts = [str(problem) for problem in problems]
    for text in texts[:_WARNINGS]:
        module.warn(text)
    if len(texts) > _WARNINGS:
        module.warn("%d more %s; see the result" % (len(texts) - _WARNINGS, what))
    return texts


def identify(given: Optional[str]) -> str:
    """The host id: as given, or made from the machine id."""
    if given:
        return given
    try:
        with open(_MACHINE_ID, encoding="ascii") as file:
            return host_id(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            "host_id is not set and %s cannot be read: %s" % (_MACHINE_ID, error)
        ) from None


def hostname(given: Optional[str]) -> str:
    """The host's name, for people: as given, or the kernel's."""
    return given or platform.node()
