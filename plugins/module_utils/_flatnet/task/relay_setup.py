# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay as the module ``tun_relay`` asks for it: from its options to what has to change.

The module gives the function that reads the leases from etcd. It is called only if the relay's
table is to be made of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple

from .. import checks
from ..backends.udp import relay_table
from ..backends.udp.backend import tun
from ..errors import FlatnetError, InvalidInput
from ..flannel.config import NetworkConfig
from ..flannel.lease import Lease
from ..host import users
from ..install import relay
from ..install.installation import Installation, Program
from ..install.plan import Belongings
from ..install.target import Target
from ..kernel.kernel import Kernel
from ..relay.config import RelaySettings, RelayTable
from . import relay_options


class LeasesRead(NamedTuple):
    """What was read from etcd for the relay's table.

    ``usable`` are the leases that this host may use as peers, ``unreadable`` the subnets of keys
    whose value nobody can read. ``own`` is the lease of this ``host``, if it has one.
    """

    config: NetworkConfig
    host: object
    own: Lease | None
    usable: tuple[Lease, ...]
    unreadable: tuple[str, ...]
    revision: int


def observe(
    option: Mapping[str, Any], kernel: Kernel, read: Callable[[], LeasesRead]
) -> Installation:
    """The relay on this host, and what has to change; raises FlatnetError."""
    if not os.path.isabs(option["prefix"]):
        raise InvalidInput("prefix: %s is not an absolute path" % option["prefix"])
    absent = option["state"] == "absent"
    return Installation.observe(
        _absent(option, kernel) if absent else _present(option, kernel, read)
    )


def _present(option: Mapping[str, Any], kernel: Kernel, read: Callable[[], LeasesRead]) -> Program:
    users.check("user", option["user"])
    asked = relay_options.settings(option, kernel.interfaces(), kernel.addresses())
    request = relay.Request(
        asked,
        tun(asked),
        option["unit"] and relay_options.unit(option["unit"], asked.user),
        _table(option, asked, read),
        option["state"] == "restarted",
    )
    target = Target(option["prefix"], "relay", option["python"] or sys.executable)
    return relay.Present(target, request, kernel)


def _absent(option: Mapping[str, Any], kernel: Kernel) -> Program:
    device = checks.device("name", option["name"])
    table_file = relay_options.path("table_file", option["table_file"]) or ""
    named = Belongings(frozenset({table_file}), frozenset({option["user"]}), frozenset({device}))
    return relay.Absent(Target(option["prefix"], "relay"), named, kernel)


def _table(
    option: Mapping[str, Any], asked: RelaySettings, read: Callable[[], LeasesRead]
) -> Callable[[RelayTable | None], RelayTable] | None:
    """What makes the table from the one that is there; None if somebody else keeps it."""
    if option["table"] is not None:
        if option["from_leases"]:
            raise InvalidInput("from_leases: the option table is given too; give one of them")
        given = relay_options.table(option["table"], asked)
        return lambda _before: given
    if option["from_leases"]:
        return lambda before: _from_leases(option, asked, read, before)
    return None


def _from_leases(
    option: Mapping[str, Any],
    asked: RelaySettings,
    read: Callable[[], LeasesRead],
    before: RelayTable | None,
) -> RelayTable:
    """The table of the leases in etcd. ``before`` is the one that is there: what it has for keys
    that nobody can read stays."""
    found = read()
    if before and 0 < found.revision < before.revision:
        # Somebody has read etcd later than we; or if it still is lower, it was restored, and is
        # believed.
        found = read()
    if found.own is None:
        raise FlatnetError(
            "from_leases: etcd names no lease of this host, %s; nothing was changed; lease a "
            "subnet with flannel_subnet first" % (found.host,)
        )
    for name, here, there in (
        ("network", asked.network, found.config.network),
        ("subnet", asked.subnet, found.own.subnet),
    ):
        if here != there:
            raise InvalidInput("%s: %s is given, but etcd has %s" % (name, here, there))
    wanted = relay_table.desired(
        found.usable, found.unreadable, before or RelayTable(), found.revision
    )
    allowed = option["allow_no_peers"]
    # Another revision alone is no difference.
    return wanted if relay_table.changes(before, wanted, allowed) or not before else before
