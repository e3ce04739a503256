# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all modules that use etcd share: how etcd is reached, which host this is, and leases as
options and results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from ..backends import known
from ..errors import InvalidInput
from ..etcd.client import EtcdClient
from ..fields import dumps, is_number
from ..flannel.config import InvalidConfig, NetworkConfig, config_from_dict
from ..flannel.lease import DEFAULT_PREFIX, InvalidLease, Lease, parse_lease
from ..kernel.reader import KernelReader
from ..leases.registry import Registry
from ..leases.snapshot import Planned
from ..overlay.location import Choice, HostLocation, find
from .module import AnsibleModule

# Which host this is, and where it meets its peers; see overlay/location.py.
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


def observe(module: AnsibleModule, kernel: KernelReader, config: NetworkConfig) -> HostLocation:
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
        **known.lease_options(lease.data),
        "host_id": lease.host_id,
        "hostname": lease.hostname,
        "permanent": not lease.etcd_lease,
    }


def show_lease(prefix: str, *leases: Lease) -> str:
    """Leases as --diff shows them."""
    return "".join(
        "%s/subnets/%s %s\n%s\n"
        % (
            prefix,
            lease.key_name,
            "etcd lease with a TTL" if lease.etcd_lease else "permanent",
            lease.to_json(),
        )
        for lease in leases
    )


def parse_leases(option: str, given: Iterable[Any]) -> tuple[Lease, ...]:
    """Leases in the form of lease_result, from the options of another module's run."""
    found = []
    for index, each in enumerate(given):
        if not isinstance(each, dict) or "key" not in each or "value" not in each:
            raise InvalidInput("%s[%d]: a lease needs key and value" % (option, index))
        value = each["value"]
        text = value if isinstance(value, str) else dumps(value)
        try:
            lease = parse_lease(str(each["key"]).rpartition("/")[2], text)
        except InvalidLease as error:
            raise InvalidInput("%s[%d]: %s" % (option, index, error)) from None
        created = each.get("create_revision", 0)
        if not is_number(created) or created < 0:
            raise InvalidInput("%s[%d].create_revision: not a revision" % (option, index))
        found.append(lease._replace(create_revision=created))
    return tuple(found)


def parse_config(option: str, given: dict[str, Any]) -> NetworkConfig:
    """A config as other modules return it."""
    try:
        return config_from_dict(given)
    except InvalidConfig as error:
        raise InvalidInput("%s: %s" % (option, error)) from None


def parse_planned(module: AnsibleModule) -> Planned:
    """The option ``planned``, which is used in check mode only."""
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
