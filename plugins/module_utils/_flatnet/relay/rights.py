# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose the relay is: its ways in for those who ask, and the user that it becomes.

Root works in no folder that somebody else may write. Started by root, the folders of the ways in
are root's: made so before anything is looked for in them, and held open while they are used, so
that their names lead nowhere else meanwhile. Started by systemd as its own user it has a folder
from it.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
import resource
import socket

from ..errors import FlatnetError
from .clients import Entrance
from .control import private_path

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 2, 38
_BACKLOG = 64
# Of its log and its metrics; core dumps have packets in them.
_LIMITS = ((resource.RLIMIT_FSIZE, 64 << 20), (resource.RLIMIT_CORE, 0))


class RelayFailed(FlatnetError):
    """The relay cannot go on; whoever keeps it starts it again."""


def account(name: str) -> pwd.struct_passwd | None:
    """Whom to become: nobody, unless root has started it and there is a name."""
    if os.geteuid() or not name:
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise RelayFailed("user: there is no user %s" % name) from None


def paths(path: str) -> tuple[str, str]:
    """Of both ways in: for all, and the private one."""
    return path, private_path(path)


def entrances(path: str, user: pwd.struct_passwd | None) -> list[Entrance]:
    """Listen for those who ask; raises RelayFailed."""
    made = []
    former = {user.pw_uid} if user else set()
    try:
        for each, private in zip(paths(path), (False, True)):
            folder = _folder(os.path.dirname(each), 0o700 if private else 0o755, former)
            try:
                listener = _listen(folder, os.path.basename(each))
            finally:
                os.close(folder)
            made.append(Entrance(listener, private))
    except OSError as error:
        raise RelayFailed("control %s: %s" % (path, error.strerror)) from None
    return made


def become(user: pwd.struct_passwd | None) -> None:
    """Give up root's rights, if they were ever had, for good; nothing after this needs them."""
    if user is None:
        return
    for what, most in _LIMITS:
        resource.setrlimit(what, (most, most))
    libc = ctypes.CDLL(None)
    # That the end of whoever started it is its end too, which becoming another user forgets.
    parent, number = os.getppid(), ctypes.c_int()
    libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(number))
    os.setgroups([each.gr_gid for each in grp.getgrall() if user.pw_name in each.gr_mem])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, number.value)
    if number.value and os.getppid() != parent:
        raise RelayFailed("whoever started it is gone")


def _folder(path: str, mode: int, former: set[int]) -> int:
    """A folder that nobody else can write in, made if need be, as a descriptor. One that is the
    relay's user's, as earlier versions had it, is taken from it."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    ours = True
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        ours = False
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        folder = os.open(path, flags)
    except NotADirectoryError:
        if mode != 0o700:
            raise
        # What that user left in the folder that was taken, which is ours by now.
        os.unlink(path)
        os.mkdir(path, mode)
        folder = os.open(path, flags)
    try:
        found = os.fstat(folder)
        if found.st_uid in former:
            os.fchown(folder, os.geteuid(), os.getegid())
            ours = True
        if ours or (mode == 0o700 and found.st_uid == os.geteuid()):
            os.fchmod(folder, mode)
        elif found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise RelayFailed(
                "control: others than the user %d may write in the folder %s; remove it, or give "
                "the relay another one" % (os.geteuid(), path)
            )
    except BaseException:
        os.close(folder)
        raise
    return folder


def _listen(folder: int, name: str) -> socket.socket:
    """In this folder, whatever leads to it now. Whoever gets there may connect: it is the folder
    that keeps others out, since root without all its rights (flatnet-sync has CAP_DAC_READ_SEARCH)
    gets into another user's folder, and cannot write to its files."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o111)
    try:
        listener.bind("/proc/self/fd/%d/%s" % (folder, name))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener
