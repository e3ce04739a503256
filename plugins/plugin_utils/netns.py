# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a command gets into a named network namespace with its own /etc, /run and host name.

Shared by the connection plugin and by the lab of the tests, so it knows nothing of Ansible.

Nothing outlives the command: every run unshares its own mount (and UTS) namespace, mounts what it
was given and then becomes the command. That keeps hosts free of daemons and of state to clean up, at
the price of a few milliseconds each time.
"""

from __future__ import annotations

import os
import typing as t

NETNS_DIR = "/run/netns"
NETNS_ETC_DIR = "/etc/netns"

#: What a set-up that failed inside exits with, and how its sentence on stderr starts.
FAILED = 255
FAILED_MARK = "flatnet.overlay.netns: "

_FAIL = 'fail() { echo "' + FAILED_MARK + '$*" >&2; exit ' + str(FAILED) + "; }"


class NamespaceError(Exception):
    """The namespace, or a directory to mount in it, is not there."""


def check(netns: str, etc: str | None = None, run: str | None = None) -> None:
    """Raise NamespaceError, with the sentence for the user, when a command cannot be run there."""
    if os.geteuid() != 0:
        raise NamespaceError(
            "entering a network namespace needs root on the controller: run Ansible itself as root "
            "('become' only applies inside of the namespace)"
        )
    path = os.path.join(NETNS_DIR, netns)
    if not netns or "/" in netns or netns in (".", ".."):
        raise NamespaceError(f"{netns!r} is not the name of a network namespace")
    try:
        device = os.stat(path).st_dev
    except OSError as exc:
        raise NamespaceError(
            f"there is no network namespace {netns!r} ({path}: {exc.strerror}); "
            "'ip netns list' shows those that exist"
        ) from exc
    if device != os.stat("/proc/self/ns/net").st_dev:
        raise NamespaceError(
            f"{path} is a plain file that a deleted network namespace left; remove it with "
            f"'ip netns delete {netns}' and make the namespace again"
        )
    for target, directory in (("/etc", etc), ("/run", run)):
        if directory and not os.path.isdir(directory):
            raise NamespaceError(
                f"the directory {directory} to be mounted over {target} "
                f"of network namespace {netns!r} does not exist"
            )


def command(
    netns: str,
    argv: t.Sequence[str],
    etc: str | None = None,
    run: str | None = None,
    hostname: str | None = None,
) -> list[str]:
    """Return the command line that runs argv in the namespace."""
    # The arguments travel as positional parameters; the script itself never contains any of them.
    script = [_FAIL]
    parameters: list[str] = []

    def step(line: str, *values: str) -> None:
        script.append(line)
        parameters.extend(values)
        script.append(f"shift {len(values)}")

    # /sys shows the network devices of the namespace that mounted it.
    script.append('mount -t sysfs sysfs /sys || fail "cannot mount /sys"')
    for source, target in _binds(netns, etc, run):
        step('mount --bind "$1" "$2" || fail "cannot mount $1 over $2"', source, target)
    if hostname:
        step('echo "$1" >/proc/sys/kernel/hostname || fail "cannot set host name $1"', hostname)
    script.append('exec "$@"')

    unshare = ["unshare", "--mount", "--propagation", "private"]
    if hostname:
        unshare.append("--uts")
    return [
        "nsenter",
        f"--net={NETNS_DIR}/{netns}",
        "--",
        *unshare,
        "--",
        "/bin/sh",
        "-c",
        "\n".join(script),
        "netns",
        *parameters,
        *argv,
    ]


def _binds(netns: str, etc: str | None, run: str | None) -> list[tuple[str, str]]:
    """What is mounted over what, in the order that hides no source before it was used."""
    binds = [(etc, "/etc")] if etc else _iproute2_binds(netns)
    if run:
        under_etc = os.path.abspath(run).startswith("/etc/")
        binds.insert(0 if under_etc else len(binds), (run, "/run"))
    return binds


def _iproute2_binds(netns: str) -> list[tuple[str, str]]:
    """As 'ip netns exec' does: each entry of /etc/netns/<name> over its namesake in /etc."""
    directory = os.path.join(NETNS_ETC_DIR, netns)
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    pairs = [(os.path.join(directory, name), os.path.join("/etc", name)) for name in names]
    # Without a namesake there is nothing to mount over; 'ip netns exec' skips these, too.
    return [pair for pair in pairs if os.path.exists(pair[1])]
