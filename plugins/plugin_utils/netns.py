# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a command gets into a named network namespace with its own /etc, /run and host name.

Shared by the connection plugin and by the lab of the tests, so it knows nothing of Ansible.

Nothing outlives the command. Every run gets a mount (and UTS) namespace of its own, mounts what it
was given, and then becomes the command. So hosts have no daemons, and no state to clean up. This
costs a few milliseconds.
"""

from __future__ import annotations

import os
import shutil
import typing as t

NETNS_DIR = "/run/netns"

#: If the set-up inside fails: its exit status, and how its line on stderr begins.
FAILED = 255
FAILED_MARK = "flatnet.overlay.netns: "

#: The starts of errors that mean that the command was not run.
ENTRY_ERRORS = (FAILED_MARK, "Cannot open network namespace", "mount of /sys", 'exec of "unshare"')

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
        if directory and not os.path.isabs(directory):
            raise NamespaceError(
                f"{directory!r}, to be mounted over {target} of network namespace {netns!r}, "
                "is not an absolute path"
            )
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
    # ip(8) enters the namespace, gives the command a mount namespace of its own with the /sys of
    # the network namespace, and mounts what /etc/netns/<name>/ holds.
    line = [_tool("ip"), "netns", "exec", netns]
    if hostname:
        line += ["unshare", "--uts", "--"]
    # The values travel as positional parameters; the script itself never contains any of them.
    script = [_FAIL]
    parameters: list[str] = []
    for source, target in _binds(etc, run):
        script.append(f'mount --bind "$1" {target} || fail "cannot mount $1 over {target}"; shift')
        parameters.append(source)
    if hostname:
        script.append(
            'echo "$1" >/proc/sys/kernel/hostname || fail "cannot set host name $1"; shift'
        )
        parameters.append(hostname)
    script.append('exec "$@"')
    return [*line, "/bin/sh", "-c", "\n".join(script), "netns", *parameters, *argv]


def _binds(etc: str | None, run: str | None) -> list[tuple[str, str]]:
    """What is mounted over what. The order is such that no source is hidden before it is used."""
    binds = []
    if etc:
        binds.append((etc, "/etc"))
    if run:
        under_etc = os.path.abspath(run).startswith("/etc/")
        binds.insert(0 if under_etc else len(binds), (run, "/run"))
    return binds


def _tool(name: str) -> str:
    """A tool's path. Root's PATH does not always have the folders of the system's tools."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or name
