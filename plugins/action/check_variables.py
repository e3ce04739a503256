# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks all variables of a fleet at once, on the controller; its module has the documentation."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars
from ansible_collections.flatnet.overlay.plugins.plugin_utils import variables

ROLES = Path(__file__).resolve().parents[2] / "roles"
# Evaluated for one host of those that have the same: it may ask somebody else, and take its time.
LOOKUP = re.compile(r"\b(lookup|query|q)\s*\(")


class Hosts:
    """The hosts that are looked at, and their variables as they were written."""

    def __init__(self, task_vars: t.Mapping[str, t.Any], names: t.Iterable[str]) -> None:
        self._all = task_vars["hostvars"]
        # What plays and roles set is only known to the task, beside what its own host has.
        here = _ours(task_vars)
        #: What hosts have of themselves.
        self.own = {name: _ours(self._all.raw_get(name)) for name in names}
        own = self._all.raw_get(task_vars["inventory_hostname"])
        defaults = {name: value for name, value in here.items() if name not in own}
        over = {name: value for name, value in here.items() if own.get(name) != value}
        over = {name: value for name, value in over.items() if name not in defaults}
        self.fleet: dict[str, dict[str, t.Any]] = {
            name: {**defaults, **values, **over} for name, values in self.own.items()
        }

    def variables(self, name: str) -> dict[str, t.Any]:
        return {**self._all.raw_get(name), "hostvars": self._all}


class ActionModule(ActionBase):
    """One task for the whole fleet, without a connection."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(("group", "remove"))

    def run(
        self, tmp: object = None, task_vars: dict[str, t.Any] | None = None
    ) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        given = task_vars or {}
        reached = list(given["ansible_play_hosts_all"])
        known = variables.load(ROLES)
        group = self._task.args.get("group")
        if group:
            # The hosts' own are looked at by the play that has them.
            problems = list(variables.unknown(known, given).values())
            limited = given.get("ansible_limit") is not None
            members = given["groups"].get(group)
            problems += variables.missing(group, members, reached if limited else None)
            if "remove" in self._task.args and members:
                problems += self._misplaced(Hosts(given, members)) or self._leaving(
                    given, group, reached if limited else members
                )
        else:
            hosts = Hosts(given, reached)
            problems = self._check(known, hosts) + self._misplaced(hosts)
        if problems:
            result.update(failed=True, msg="; ".join(problems))
        return result

    def _check(self, known: t.Mapping[str, variables.Spec], hosts: Hosts) -> list[str]:
        asked: dict[str, t.Any] = {}

        def evaluate(host: str, name: str) -> t.Any:
            text = str(hosts.fleet[host][name])
            if LOOKUP.search(text) and text in asked:
                return asked[text]
            asked[text] = self._evaluate(hosts, host, name)
            return asked[text]

        return variables.check(known, hosts.fleet, evaluate)

    def _evaluate(self, hosts: Hosts, host: str, name: str) -> t.Any:
        templar = self._templar.copy_with_new_env(available_variables=hosts.variables(host))
        try:
            # In a mapping, Ansible leaves out a value that a template omits.
            found = templar.template({"value": hosts.fleet[host][name]})
        except AnsibleError as error:
            text = " ".join(str(error).split())
            raise ValueError("cannot be evaluated: %s" % text) from None
        value = found.get("value")
        return None if str(value).startswith("__omit_place_holder__") else value

    def _misplaced(self, hosts: Hosts) -> list[str]:
        # Ansible chooses the hosts of a play before it knows any host's own variables.
        return variables.misplaced(hosts.own, load_extra_vars(self._loader))

    def _leaving(
        self, given: t.Mapping[str, t.Any], group: str, reached: t.Sequence[str]
    ) -> list[str]:
        """Errors about the choice of the hosts that are to leave."""
        names = self._task.args["remove"]
        if not names:
            return ["say which hosts are to leave the overlay, as in -e flatnet_remove=host3"]
        members = set(given["groups"][group])
        problems = []
        for name in str(names).split(","):
            found = self._hosts(name.strip(), given)
            outside = [host for host in found if host not in members]
            if not found:
                problems.append("flatnet_remove: %r names no host of the inventory" % name)
            elif outside:
                problems.append(
                    "flatnet_remove: %r names %s, not in the group %s"
                    % (name, ", ".join(outside[:3]), group)
                )
            elif not set(found) & set(reached):
                problems.append("flatnet_remove: --limit leaves out what %r names" % name)
        return problems

    def _hosts(self, name: str, given: t.Mapping[str, t.Any]) -> list[str]:
        """The hosts that a name, a group or a pattern names. Patterns that exclude hosts name
        none."""
        if not name or name[0] in "!&" or (":" in name and name not in given["groups"]["all"]):
            return []
        loader = self._shared_loader_obj.lookup_loader
        lookup = loader.get("ansible.builtin.inventory_hostnames", loader=self._loader)
        found: list[str] = lookup.run([name], variables=given)
        return found


def _ours(values: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {name: values[name] for name in values if name.startswith(variables.PREFIX)}
