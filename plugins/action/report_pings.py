# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says what the pings of a fleet came to, on the controller; its module has the documentation."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.flatnet.overlay.plugins.plugin_utils.report import Failed, cause, report

PINGED = "flatnet_verify_result"


class ActionModule(ActionBase):
    """One task for the whole fleet, without a connection."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset()

    def run(
        self, tmp: object = None, task_vars: dict[str, t.Any] | None = None
    ) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        given = task_vars or {}
        every = given["hostvars"]
        # With serial, others of the play come later, or came before and have been told of.
        left, batch = set(given["ansible_play_hosts"]), set(given["ansible_play_batch"])
        pinged, failed = {}, []
        for host in given["ansible_play_hosts_all"]:
            variables = every.raw_get(host)
            if host in batch:
                pinged[host] = variables[PINGED]
            elif host not in left:
                failed.append(Failed(host, cause(variables), _addresses(variables)))
        found = report(pinged, failed)
        # As lines of their own, not in the result: callbacks show lists and longer texts as JSON.
        for line in found.lines:
            Display().display(line)
        if not found.failed:
            Display().display(found.sentence)
        result.update(failed=found.failed, msg=found.sentence)
        return result


def _addresses(variables: t.Mapping[str, t.Any]) -> frozenset[str]:
    """What a host's peers may know it by; templates match nothing."""
    lease = variables.get("flatnet_lease")
    lease = lease.get("lease") if isinstance(lease, t.Mapping) else None
    names = [variables.get(name) for name in ("ansible_host", "flatnet_public_ip")]
    names.append(lease.get("public_ip") if isinstance(lease, t.Mapping) else None)
    return frozenset(str(each) for each in names if each)
