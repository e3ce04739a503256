# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A user of the system for a program without rights.

A user that we make has our mark in the comment field. No other user is ever removed.
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
    """The host's commands cannot make or remove the user."""


def check(option: str, name: str) -> str:
    """The name of a user without rights; raises InvalidInput if it is not."""
    if not _NAME.fullmatch(name):
        raise InvalidInput("%s: %s is not the name of a user" % (option, show(name)))
    found = find(name)
    if name == "root" or (found and found.pw_uid == 0):
        raise InvalidInput("%s: %s has all rights; name a user without rights" % (option, name))
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
    """Make the user, unless it is there."""
    if find(name) is None:
        shell = shutil.which("nologin", path="/usr/sbin:/sbin:/usr/bin:/bin") or "/bin/false"
        # A group of this name may be there: left by somebody, or made for this user.
        group = ["--gid", name] if _has_group(name) else ["--user-group"]
        words = ["--system", *group, "--no-create-home", "--home-dir", "/nonexistent"]
        try:
            _run("useradd", *words, "--shell", shell, "--comment", COMMENT, name)
        except UserFailed:
            if find(name) is None:  # else somebody has made it meanwhile
                raise
    return pwd.getpwnam(name)


def remove(name: str) -> None:
    """Remove a user and its group, if we have made the user."""
    if is_ours(name):
        # Its own processes have ended. With --force it is removed even if processes in containers
        # have the same number.
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
