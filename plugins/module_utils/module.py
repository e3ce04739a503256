# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules share: arguments, and how errors, check mode and diff reach the user.

The only file of the core that imports Ansible.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule

from .entries import Entry, Link
from .errors import FlatnetError, InvalidInput
from .etcd import EtcdClient
from .fields import dumps
from .flannel import DEFAULT_PREFIX, InvalidLease, Lease, parse_lease
from .kernel import Kernel
from .leases import Planned, Registry
from .links import LinkPlan, describe
from .lock import locked
from .network import InvalidConfig, NetworkConfig, config_from_dict
from .place import Choice, Place, find
from .plan import Changes, diff, outcome

# Which host this is, and where it meets its peers; see place.py.
HOST_ARGUMENTS: dict[str, Any] = {
    "interface": {"type": "str"},
    "interface_regex": {"type": "str"},
    "can_reach": {"type": "str"},
    "public_ip": {"type": "str"},
    "host_id": {"type": "str"},
    "hostname": {"type": "str"},
}
HOST_EXCLUSIVE = [("interface", "interface_regex", "can_reach")]

ETCD_ARGUMENTS: dict[str, Any] = {
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


def create(
    arguments: dict[str, Any], etcd: bool = False, state: bool = True, **more: Any
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


def changing(module: AnsibleModule) -> contextlib.AbstractContextManager[None]:
    """Holds the lock that the resident program takes as well; check mode needs none."""
    return contextlib.nullcontext() if module.check_mode else locked()


def converge(
    module: AnsibleModule, kernel: Kernel, compute: Callable[[], Changes], **result: Any
) -> None:
    """Bring the kernel where ``compute`` wants it, or in check mode only say how; exits."""
    with changing(module):
        changes = kernel.converge(compute, module.check_mode)
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


def warn_each(module: AnsibleModule, problems: Iterable[Any], what: str) -> list[str]:
    """Warn of each problem, the first few by name; returns all as text."""
    texts = [str(problem) for problem in problems]
    for text in texts[:_WARNINGS]:
        module.warn(text)
    if len(texts) > _WARNINGS:
        module.warn("%d more %s; see the result" % (len(texts) - _WARNINGS, what))
    return texts


def observe(module: AnsibleModule, kernel: Kernel, config: NetworkConfig) -> Place:
    """Find out who and where this host is, from HOST_ARGUMENTS and the kernel."""
    return find(kernel, config, Choice(**{name: module.params[name] for name in HOST_ARGUMENTS}))


def lease_result(lease: Lease, prefix: str) -> dict[str, Any]:
    """A lease as modules return it; ``key`` and ``value`` are what etcd holds."""
    return {
        "subnet": lease.subnet,
        "key": "%s/subnets/%s" % (prefix, lease.key_name),
        "value": json.loads(lease.to_json()),
        "public_ip": lease.public_ip,
        "backend_type": lease.backend_type,
        "vni": lease.vni,
        "vtep_mac": lease.vtep_mac,
        "host_id": lease.host_id,
        "hostname": lease.hostname,
        "permanent": not lease.etcd_lease,
    }


def parse_leases(option: str, given: Iterable[Any]) -> tuple[Lease, ...]:
    """Leases in the form of lease_result, from the options of another module's run."""
    found = []
    for place, each in enumerate(given):
        if not isinstance(each, dict) or "key" not in each or "value" not in each:
            raise InvalidInput("%s[%d]: a lease needs key and value" % (option, place))
        value = each["value"]
        text = value if isinstance(value, str) else dumps(value)
        try:
            found.append(parse_lease(str(each["key"]).rpartition("/")[2], text))
        except InvalidLease as error:
            raise InvalidInput("%s[%d]: %s" % (option, place, error)) from None
    return tuple(found)


def parse_config(option: str, given: dict[str, Any]) -> NetworkConfig:
    """A config as other modules return it."""
    try:
        return config_from_dict(given)
    except InvalidConfig as error:
        raise InvalidInput("%s: %s" % (option, error)) from None


def parse_planned(module: AnsibleModule) -> Planned:
    """The option ``planned``, which counts in check mode only."""
    given = module.params["planned"]
    if not given or not module.check_mode:
        return Planned()
    config = given["config"]
    return Planned(
        parse_config("planned.config", config) if config else None,
        parse_leases("planned.leases", given["leases"] or ()),
    )


PLANNED_ARGUMENT: dict[str, Any] = {
    "type": "dict",
    "options": {
        "config": {"type": "dict"},
        "leases": {"type": "list", "elements": "dict"},
    },
}
