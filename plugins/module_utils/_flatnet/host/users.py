# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A user of the system's own for a program without rights.

Those that we make say so in their comment field, and nobody else is ever removed.
"""

from __future__ import annotations

import grp
import pwd
import re
import shutil

from ..errors import FlatnetError, InvalidInput
from ..fields import show
from .system_lock import run_with_users

COMMENT = "flatnet.overlay"

_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,30}")


class UserFailed(FlatnetError):
    """The host's own tools cannot make or remove the user."""


def check(option: str, name: str) -> str:
    """The name, if it can be that of somebody without rights."""
    if not _NAME.fullmatch(name):
        raise InvalidInput("%s: %s is not the name of a user" % (option, show(name)))
    found = find(name)
    if name == "root" or (found and found.pw_uid == 0):
        raise InvalidInput("%s: %s has all rights, and the relay needs none" % (option, name))
    return name


def find(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def is_ours(name: str) -> bool:
    found = find(name)
    return found is not None and found.pw_gecos == COMMENT


def make(name: str) -> pwd.struct_passwd:
    """The user, made unless it is there."""
    if find(name) is None:
        shell = shutil.which("nologin", path="/usr/sbin:/sbin:/usr/bin:/bin") or "/bin/false"
        # A group that is left from somebody, or that somebody wants it to have, will do.
        group = ["--gid", name] if _has_group(name) else ["--user-group"]
        words = ["--system", *group, "--no-create-home", "--home-dir", "/nonexistent"]
        try:
            _run("useradd", *words, "--shell", shell, "--comment", COMMENT, name)
        except UserFailed:
            if find(name) is None:  # nobody else has made it meanwhile
                raise
    return pwd.getpwnam(name)


def remove(name: str) -> None:
    """Remove a user of ours, and its group."""
    if is_ours(name):
        # Its processes have ended. Those of containers may have the same number, and are no reason.
        _run("userdel", "--force", name)
        if _has_group(name) and not grp.getgrnam(name).gr_mem:
            _run("groupdel", name)


def _has_group(name: str) -> bool:
    try:
        return bool(grp.getgrnam(name))
    except KeyError:
        return False


def _run(*command: str) -> None:
    code, output = run_with_users(*command)
    if code:
        raise UserFailed(
            "'%s' failed: %s; make the user yourself, and name it with the option user"
            % (" ".join(command), output.strip() or "status %d" % code)
        )
