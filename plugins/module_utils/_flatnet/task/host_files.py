# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's own files that modules change: files.py, with errors for users, and SELinux.

Each step is on disk before the next one begins. So after a loss of power the files are as they were
between two steps.
"""

from __future__ import annotations

import os
import stat

from ..errors import FlatnetError
from ..host import files
from .module import AnsibleModule


class FileFailed(FlatnetError):
    """A file cannot be read, written or removed."""


def read(path: str) -> str | None:
    """What is in the file; None if there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FileFailed("%s cannot be read: %s" % (path, error.strerror)) from None


def save(module: AnsibleModule, path: str, text: str, mode: int | None = None) -> None:
    """Write the text to the file. A file that was there keeps its owner and, unless ``mode`` is
    given, its permissions. If ``path`` is a link, the file that it leads to is replaced."""
    path = os.path.realpath(path)
    try:
        try:
            before = os.stat(path)
        except OSError:
            before = None
        if mode is None:
            mode = stat.S_IMODE(before.st_mode) if before else 0o644
        files.replace(path, text.encode("utf-8", "surrogateescape"), mode)
        if before and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(path, before.st_uid, before.st_gid)
    except OSError as error:
        raise FileFailed("%s cannot be written: %s" % (path, error.strerror)) from None
    module.set_default_selinux_context(path, False)


def remove(path: str) -> None:
    """Remove the file, if it is there."""
    try:
        files.remove(path)
    except OSError as error:
        raise FileFailed("%s cannot be removed: %s" % (path, error.strerror)) from None
