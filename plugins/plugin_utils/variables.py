# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's variables, and what may be wrong with those of a fleet.

The variables come from the roles' meta/argument_specs.yml, which ansible-doc shows as well. This
file knows nothing of Ansible's plugins: its caller says which variables hosts have, and evaluates
them.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import typing as t
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ..module_utils._flatnet import checks
from ..module_utils._flatnet.errors import InvalidInput
from ..module_utils._flatnet.fields import parse_name
from ..module_utils._flatnet.overlay import segments

Spec = dict[str, t.Any]
Values = Mapping[str, t.Any]

PREFIX = "flatnet_"

# Which hosts leave; only the command line of remove.yml can say so.
REMOVE = PREFIX + "remove"

# Which segments go; only the command line of segment.yml can say so.
SEGMENTS_REMOVE = PREFIX + "segments_remove"

# What roles and playbooks set for themselves: results, and values made of variables. A test
# compares this list with their files.
INTERNAL = frozenset(
    PREFIX + name
    for name in (
        "backend_firewall backend_left backend_relay backend_vtep bridge_result etcd host lease "
        "lease_file network_info network_result peers_planned peers_result peers_subnet_file "
        "prepare_allowed prepare_backend prepare_buffer prepare_buffered prepare_buffers "
        "prepare_complete prepare_drop_ins prepare_files prepare_forwarding prepare_host "
        "prepare_installed prepare_interpreter prepare_joins prepare_loaded prepare_missing "
        "prepare_modules prepare_names prepare_no_pyroute2 prepare_overlay prepare_own_files "
        "prepare_packages prepare_relay prepare_services prepare_sysctls prepare_told "
        "prepare_written relay_command segment segment_all segment_discovering segment_hosts "
        "segment_info segment_joined segment_known segment_leaving segment_members segment_mine "
        "segment_named "
        "segment_names segment_result segment_vteps sync_command sync_folders sync_relay "
        "sync_result sync_units verify_result"
    ).split()
)

# One host writes them to the network's config, for all hosts.
OF_THE_NETWORK = [
    PREFIX + name
    for name in ("network", "subnet_len", "subnet_min", "subnet_max", "backend", "etcd_prefix")
]
# Two hosts cannot have the same value.
OF_ONE_HOST = [
    PREFIX + name for name in ("subnet", "public_ip", "host_id", "vtep_mac", "segment_vtep")
]
# At most one of them.
EXCLUSIVE = [PREFIX + name for name in ("interface", "interface_regex", "can_reach")]
# Both or neither.
TOGETHER = [
    (PREFIX + "etcd_username", PREFIX + "etcd_password"),
    (PREFIX + "etcd_cert_file", PREFIX + "etcd_key_file"),
]

# What flatnet_sync_interval is by default.
INTERVAL = 60
_OF_RESULTS = ("changed", "failed", "unreachable")
_NAMED = 3  # how many hosts are named for one problem


def _ipv4(option: str, value: str) -> None:
    checks.address(option, value, 4)


def _regex(option: str, value: str) -> None:
    try:
        re.compile(value)
    except re.error as error:
        raise InvalidInput(
            "%s: %r is not a regular expression: %s" % (option, value, error)
        ) from None


def _absolute(option: str, value: str) -> None:
    if not os.path.isabs(value):
        raise InvalidInput("%s: %r is not an absolute path" % (option, value))
    # They have a meaning in systemd's units.
    odd = re.search(r"[\s\"'\\%$]", value)
    if odd:
        raise InvalidInput(
            "%s: %r has %r in it; take a path without white space, quotes and any of \\ %% $"
            % (option, value, odd[0])
        )


def _user(option: str, value: str) -> None:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", value):
        raise InvalidInput("%s: %r is not a name for a user" % (option, value))


def _ttl(option: str, value: int) -> None:
    if value:
        checks.number(option, value, 5, 9000000000)


def _segments(option: str, value: Sequence[t.Any]) -> None:
    try:
        segments.parse_all(value)
    except InvalidInput as error:
        raise InvalidInput("%s: %s" % (option, error)) from None


def _workers(option: str, value: int) -> None:
    checks.number(option, value, 0, 16)


def _at_least(low: float, high: float = math.inf) -> Callable[[str, float], None]:
    def check(option: str, value: float) -> None:
        if not low <= value <= high:
            side, limit = ("less", low) if value < low else ("more", high)
            raise InvalidInput("%s: %s is %s than %s" % (option, value, side, limit))

    return check


# Modules make these checks too, but later, some of them at the last step.
_CHECKS: dict[str, Callable[..., object]] = {
    "bridge_name": checks.device,
    "can_reach": _ipv4,
    "etcd_timeout": _at_least(0.001, 60),
    "host_id": parse_name,
    "hostname": parse_name,
    "interface_regex": _regex,
    "lease_ttl": _ttl,
    "public_ip": _ipv4,
    "relay_metrics_file": _absolute,
    "relay_table_file": _absolute,
    "relay_user": _user,
    "relay_workers": _workers,
    "segment_vtep": checks.address,
    "segments": _segments,
    "subnet": checks.network,
    "subnet_file": _absolute,
    "sync_interval": _at_least(1),
    "sync_metrics_file": _absolute,
    "sync_prefix": _absolute,
    "sync_python": _absolute,
    "sync_state_file": _absolute,
    "vtep_mac": checks.mac,
}
CHECKS = {PREFIX + name: check for name, check in _CHECKS.items()}


def load(roles: Path) -> dict[str, Spec]:
    """Every documented variable of the roles in a folder, with its specification."""
    found: dict[str, Spec] = {}
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        specs = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
        for entry in specs.values():
            found.update(entry.get("options", {}))
    return found


def missing(
    group: str, members: Sequence[str] | None, reached: Iterable[str] | None
) -> Iterable[str]:
    """What to say if a group has no hosts; ``reached`` are those that --limit leaves, if there is
    a limit."""
    if members is None:
        yield "the inventory has no group %s, which hosts of the overlay have to be in" % group
    elif not members:
        yield "the group %s of the inventory has no hosts" % group
    elif reached is not None and not set(members) & set(reached):
        yield "--limit leaves no host of the group %s" % group


def misplaced(own: Mapping[str, Values], told: Container[str]) -> list[str]:
    """What hosts have of themselves, whatever plays and roles set, and should not: names that the
    roles set, but for their results, and what removes something, unless the command line has
    ``told`` it."""
    found: dict[str, list[str]] = {}
    for host, values in own.items():
        for name in values:
            if name in INTERNAL and not _is_result(values[name]):
                found.setdefault(name, []).append(host)
        for name in (REMOVE, SEGMENTS_REMOVE):
            if name in values and name not in told:
                found.setdefault(name, []).append(host)
    texts = {
        SEGMENTS_REMOVE: "is in the inventory (for %s), where it would make every run a removal: "
        "take it out, and say on the command line of flatnet.overlay.segment which segments are to "
        "go, as in -e " + SEGMENTS_REMOVE + "=blue",
        REMOVE: "is in the inventory (for %s), where it has no effect: take it out, and say on the "
        "command line of flatnet.overlay.remove which hosts are to leave, as in -e "
        + REMOVE
        + "=host3",
    }
    own_name = (
        "is set (for %s), but the roles set it themselves: ansible-doc -t role has all variables"
    )
    return [
        "%s %s" % (name, texts.get(name, own_name) % _names(hosts)) for name, hosts in found.items()
    ]


def _is_result(value: t.Any) -> bool:
    """Whether it is what a task of an earlier play has registered."""
    return isinstance(value, Mapping) and not value.keys().isdisjoint(_OF_RESULTS)


def unknown(known: Mapping[str, Spec], names: Iterable[str]) -> dict[str, str]:
    """What to say of names that begin as ours do, and are none."""
    found = {}
    for name in names:
        if name.startswith(PREFIX) and name not in known and name not in INTERNAL:
            near = difflib.get_close_matches(name, known, 1, 0.7)
            meant = "did you mean %s?" % near[0] if near else "ansible-doc -t role has them all"
            found[name] = "%s is not a variable of flatnet.overlay; %s" % (name, meant)
    return found


def is_template(value: t.Any) -> bool:
    """Whether a value depends on others, maybe on those of its host."""
    if isinstance(value, Mapping):
        return any(is_template(each) for pair in value.items() for each in pair)
    if isinstance(value, (list, tuple)):
        return any(is_template(each) for each in value)
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def needs_evaluation(name: str, spec: Spec) -> bool:
    """Whether there is anything to say of a value but that it is text."""
    others = {each for pair in TOGETHER for each in pair} | set(EXCLUSIVE)
    text = spec.get("type", "str") in ("str", "path") and "choices" not in spec
    return not text or name in CHECKS or name in others


def judge(name: str, spec: Spec, value: t.Any) -> str | None:
    """What is wrong with one value, if anything."""
    kind = spec.get("type", "str")
    if kind == "dict" and not isinstance(value, Mapping):
        # -e flatnet_backend='{...}' would be text, which only modules take for what it says.
        shown = json.dumps(value, default=str)
        return "%s is %s; it must be a mapping, like type: vxlan" % (name, shown)
    if kind in ("str", "path") and isinstance(value, (Mapping, list, tuple)):
        return "%s must be text, not a list or a mapping" % name
    if spec.get("no_log"):
        return None
    checked = ArgumentSpecValidator({name: _plain(spec)}).validate({name: value})
    unknown_fields = sorted(".".join(path[1:]) for path in checked.unsupported_parameters)
    if unknown_fields:
        there = ", ".join(sorted(spec.get("options", ())))
        return "%s has no %s; it may have %s" % (name, ", ".join(unknown_fields), there)
    if checked.error_messages:
        return _sentence(name, checked.error_messages)
    try:
        if name in CHECKS:
            CHECKS[name](name, checked.validated_parameters[name])
    except InvalidInput as error:
        return str(error)
    return None


def _sentence(name: str, messages: Sequence[str]) -> str:
    text = "; ".join(messages)
    return text if name in text else "%s: %s" % (name, text)


def _plain(spec: Spec) -> Spec:
    """The part of a specification that says which values are allowed."""
    kept: Spec = {key: spec[key] for key in ("type", "elements", "choices") if key in spec}
    if "options" in spec:
        kept["options"] = {name: _plain(each) for name, each in spec["options"].items()}
    return kept


def together(values: Values) -> list[str]:
    """Errors about values of one host that do not go together."""
    given = [name for name in EXCLUSIVE if values.get(name) is not None]
    found = []
    if len(given) > 1:
        found.append("%s exclude each other; set one of them" % " and ".join(given))
    for one, other in TOGETHER:
        if (values.get(one) is None) != (values.get(other) is None):
            there, missing = (one, other) if values.get(other) is None else (other, one)
            found.append("%s is set and %s is not; set both, or neither" % (there, missing))
    if values.get(PREFIX + "lease_ttl") and values.get(PREFIX + "sync") == "none":
        found.append(
            "flatnet_lease_ttl is set and flatnet_sync is none, so nothing would renew the lease, "
            "and it would run out; set flatnet_sync to service or timer"
        )
    if values.get(PREFIX + "sync") == "timer":
        ttl, interval = (
            _seconds(values.get(PREFIX + each)) for each in ("lease_ttl", "sync_interval")
        )
        if 0 < ttl < 3 * (interval or INTERVAL):
            found.append(
                "flatnet_lease_ttl is %g, and with flatnet_sync: timer the lease is renewed only "
                "every %g seconds (flatnet_sync_interval), so it may run out; set it to %g or more"
                % (ttl, interval or INTERVAL, 3 * (interval or INTERVAL))
            )
    return found


def _seconds(value: t.Any) -> float:
    """The value as a number; 0 if it is none. Each variable alone is checked elsewhere."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0


def of_the_fleet(fleet: Mapping[str, Values]) -> list[str]:
    """Errors about values of several hosts that do not go together. Templates are ignored."""
    found = []
    for name in OF_THE_NETWORK:
        hosts = _by_value(name, fleet)
        if len(hosts) > 1:
            (one, first), (other, second) = list(hosts.items())[:2]
            found.append(
                "%s belongs to the network, so all hosts need the same; it is %s for %s, %s for %s"
                % (name, one, _names(first), other, _names(second))
            )
    for name in OF_ONE_HOST:
        found += [
            "%s belongs to one host, but %s is set for %s" % (name, value, _names(hosts))
            for value, hosts in _by_value(name, fleet).items()
            if len(hosts) > 1
        ]
    return found


def _by_value(name: str, fleet: Mapping[str, Values]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for host, values in fleet.items():
        value = values.get(name)
        if value is not None and not is_template(value):
            found.setdefault(json.dumps(value, default=str, sort_keys=True), []).append(host)
    return found


def _names(hosts: Sequence[str]) -> str:
    more = len(hosts) - _NAMED
    return ", ".join(hosts[:_NAMED]) + (" and %d more" % more if more > 0 else "")


def check(
    known: Mapping[str, Spec],
    fleet: Mapping[str, Values],
    evaluate: Callable[[str, str], t.Any],
) -> list[str]:
    """All errors in the variables of a fleet. ``fleet`` has them by host, as they were written.

    ``evaluate`` returns a host's value of a variable that is a template, or None if the template
    leaves it unset. It raises ValueError. A value that many hosts have is checked once.
    """
    problems: dict[str, list[str]] = {}
    judged: dict[str, str | None] = {}
    for host, given in fleet.items():
        for text in unknown(known, given).values():
            problems.setdefault(text, []).append(host)
    for host, given in fleet.items():
        values = {}
        for name in sorted(given.keys() & known.keys()):
            value = given[name]
            if is_template(value):
                if not needs_evaluation(name, known[name]):
                    continue
                try:
                    value = evaluate(host, name)
                except ValueError as error:
                    problems.setdefault("%s: %s" % (name, error), []).append(host)
                    continue
            if value is None:
                continue
            values[name] = value
            key = "%s=%s" % (name, json.dumps(value, default=str))
            if key not in judged:
                judged[key] = judge(name, known[name], value)
            if judged[key]:
                problems.setdefault(str(judged[key]), []).append(host)
        for text in together(values):
            problems.setdefault(text, []).append(host)
    told = [
        text if len(hosts) == len(fleet) else "%s (%s)" % (text, _names(hosts))
        for text, hosts in problems.items()
    ]
    return told + of_the_fleet(fleet)
