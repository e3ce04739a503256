# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's rights: the user that it becomes, and the sockets at which clients ask.

Root must not work in a folder that somebody else may write. If root starts the relay, the folders
of the sockets are root's. They are made root's before anything is looked for in them, and they are
held open while they are used, so that their names cannot lead elsewhere meanwhile. If systemd
starts the relay as its own user, systemd has made the folder.
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
# For its log and its metrics. No core dumps, because packets are in them.
_LIMITS = ((resource.RLIMIT_FSIZE, 64 << 20), (resource.RLIMIT_CORE, 0))


class RelayFailed(FlatnetError):
    """The relay cannot go on. Systemd, or our supervisor, starts it again."""


def account(name: str) -> pwd.struct_passwd | None:
    """The user to become; None unless root has started the relay, and ``name`` is given."""
    if os.geteuid() or not name:
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise RelayFailed("user: there is no user %s; tun_relay makes it" % name) from None


def paths(path: str) -> tuple[str, str]:
    """The paths of both sockets: the public one, and the private one."""
    return path, private_path(path)


def entrances(path: str, user: pwd.struct_passwd | None) -> list[Entrance]:
    """Listen for clients; raises RelayFailed."""
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
    """Give up root's rights for good, if root has started the relay. Nothing after this needs
    them."""
    if user is None:
        return
    for what, most in _LIMITS:
        resource.setrlimit(what, (most, most))
    libc = ctypes.CDLL(None)
    # The relay is to end with the process that started it. The kernel forgets that when a process
    # becomes another user.
    parent, number = os.getppid(), ctypes.c_int()
    libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(number))
    os.setgroups([each.gr_gid for each in grp.getgrall() if user.pw_name in each.gr_mem])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, number.value)
    if number.value and os.getppid() != parent:
        raise RelayFailed("the process that started the relay has ended")


def _folder(path: str, mode: int, former: set[int]) -> int:
    """Make and open a folder in which nobody else can write. Earlier versions made it the relay's
    user's; then it becomes ours."""
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
        # Something that this user has left in the folder above, which is ours by now.
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
    """Listen in this folder, wherever its name leads by now. Whoever can reach the socket may
    connect: the folder keeps others out, not the socket's own permissions. flatnet-sync is root
    without all of root's rights. It gets into another user's folder with CAP_DAC_READ_SEARCH, but
    it cannot write to that user's files."""
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
