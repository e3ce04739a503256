# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are replaced whole: at any moment the old one or the new one is there, never a part.

    folder/.NAME.0f3a6cd1e2b49785.new   a draft: made, locked, written, brought to disk
    folder/NAME                         the draft, renamed

What is done is on disk when a call returns, also a new folder, and that a file is gone. So a host
that loses its power has all steps until some moment, and none after it. ``publish`` does not wait.

If a run is killed, its draft stays, and nobody holds it locked any more. The next run for the same
file removes it, because it may hold a password.

Each folder on the way to a file is opened from the one above it. A symbolic link is followed only
if nobody but root, or us, can have placed it. So another user cannot lead a file of ours elsewhere.
A file that we read back ourselves has to be in a folder of ours. A file that only others read, such
as metrics, may be in a folder of theirs: see ``publish``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator

_SUFFIX = ".new"
_RANDOM = 16  # hex digits
_ATTEMPTS = 10
_DETOURS = 40  # links that are followed and folders that are made; the kernel's limit for links
_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def replace(path: str, content: bytes, mode: int) -> None:
    """Put a file in place whole, and bring it to disk. Makes its folder. Raises OSError."""
    with _naming(path), _opened(os.path.dirname(path), make=True) as folder:
        _require_ours(folder)
        _replace(folder, os.path.basename(path), content, mode, durable=True)


def replace_if_changed(path: str, content: bytes, mode: int) -> None:
    """The same, but leave a file as it is if it has the content already."""
    try:
        with open(path, "rb", opener=_open_regular) as file:
            if file.read() == content:
                return
    except OSError:
        pass  # replace() raises it, if it fails as well
    replace(path, content, mode)


def publish(path: str, content: bytes) -> None:
    """Put a file in place whole, for everybody to read. Its folder may be another user's.

    It is not brought to disk, because it is written anew soon.
    """
    with _naming(path), _opened(os.path.dirname(path), make=True) as folder:
        _replace(folder, os.path.basename(path), content, 0o644, durable=False)


def remove(path: str) -> None:
    """Remove a file, if it is there, and the drafts that were left of it. Raises OSError."""
    with _GONE, _naming(path), _opened(os.path.dirname(path)) as folder:
        _clean(folder, os.path.basename(path))
        os.unlink(os.path.basename(path), dir_fd=folder)
        os.fsync(folder)


def clean(path: str) -> None:
    """Remove the drafts of a file that runs left when they were killed."""
    with _GONE, _naming(path), _opened(os.path.dirname(path)) as folder:
        _clean(folder, os.path.basename(path))


def make_folder(path: str, uid: int, gid: int) -> None:
    """Make a folder that is a user's, unless it is there. If an earlier run was cut short in here,
    the folder that it left becomes the user's, too."""
    above, name = os.path.split(path.rstrip("/"))
    with _naming(path), _opened(above, make=True) as folder:
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_IFMT(found.st_mode) != stat.S_IFDIR or stat.S_IMODE(found.st_mode) != 0o700:
                return
        descriptor = os.open(name, _READ | os.O_DIRECTORY, dir_fd=folder)
        try:
            owner = os.fstat(descriptor).st_uid
            if owner in (os.geteuid(), uid) and not os.listdir(descriptor):
                os.fchown(descriptor, uid, gid)
                # Last: only a folder that is done has this mode.
                os.fchmod(descriptor, 0o755)
        finally:
            os.close(descriptor)


def _open_regular(path: str, dummy: int) -> int:
    """Open a regular file. A link is not followed, and a pipe is not waited for."""
    descriptor = os.open(path, _READ)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a file", path)
    return descriptor


# If the file, or a folder on the way to it, is not there, nothing has to be removed.
_GONE = contextlib.suppress(FileNotFoundError, NotADirectoryError)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """An OSError names this file, whatever path the failed call was given."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


# --- one file in an open folder -------------------------------------------------------------------


def _replace(folder: int, name: str, content: bytes, mode: int, durable: bool) -> None:
    _clean(folder, name)
    draft, descriptor = _draft(folder, name)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            if durable:
                os.fsync(descriptor)
            # While it is locked, so that no other run takes it for a draft that was left.
            os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=folder)
        raise
    if durable:
        os.fsync(folder)


def _draft(folder: int, name: str) -> tuple[str, int]:
    """The name and the descriptor of a new file, which nobody else can open yet."""
    for dummy in range(_ATTEMPTS):
        draft = ".%s.%s%s" % (name, secrets.token_hex(_RANDOM // 2), _SUFFIX)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(draft, flags, 0o600, dir_fd=folder)
        except FileExistsError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return draft, descriptor
        os.close(descriptor)  # another run took it for a draft that was left, and removed it
    raise OSError(errno.EAGAIN, "another process removes each new file from its folder")


def _clean(folder: int, name: str) -> None:
    pattern = re.compile(r"\.%s\.[0-9a-f]{%d}%s" % (re.escape(name), _RANDOM, re.escape(_SUFFIX)))
    for entry in filter(pattern.fullmatch, os.listdir(folder)):
        with contextlib.suppress(OSError):
            descriptor = os.open(entry, _READ, dir_fd=folder)
            try:
                found = os.fstat(descriptor)
                # It must not be somebody else's, or a second name of a file that is in use.
                if (
                    stat.S_ISREG(found.st_mode)
                    and found.st_uid == os.geteuid()
                    and found.st_nlink == 1
                ):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry, dir_fd=folder)
            finally:
                os.close(descriptor)


# --- folders --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: str, make: bool = False) -> Iterator[int]:
    """Open a folder. ``make``: make it, and those above it, if it is not there."""
    walked = _walk(path or ".", make)
    try:
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=walked)
    finally:
        os.close(walked)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _walk(path: str, make: bool) -> int:
    """Open a folder one name at a time. The file's docstring says which links are followed."""
    here = os.open("/" if path.startswith("/") else ".", _WALK)
    todo = path.split("/")[::-1]
    detours = 0
    try:
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            detours += 1
            try:
                there = os.open(name, _WALK, dir_fd=here)
                detours -= 1
            except FileNotFoundError:
                if not make or detours > _DETOURS:
                    raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=here)
                    _bring_to_disk(here)
                todo.append(name)
                continue
            except NotADirectoryError:
                if not _is_link(here, name) or detours > _DETOURS:
                    raise
                target = os.readlink(name, dir_fd=here)
                todo += target.split("/")[::-1]
                there = os.open("/", _WALK) if target.startswith("/") else os.dup(here)
            os.close(here)
            here = there
    except BaseException:
        os.close(here)
        raise
    return here


def _bring_to_disk(folder: int) -> None:
    """Bring what is in a folder to disk, by a descriptor that is good for walking only."""
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_link(folder: int, name: str) -> bool:
    """Whether it is a link, which may be followed. OSError if another user may have placed it."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        return False
    if found.st_uid not in (0, os.geteuid()) or not _is_ours(os.fstat(folder)):
        raise PermissionError(
            errno.EPERM,
            "%s in its path is a symbolic link that another user may have placed; give the path "
            "of the folder that the link leads to" % name,
        )
    return True


def _require_ours(folder: int) -> None:
    found = os.fstat(folder)
    if not _is_ours(found):
        foreign = found.st_uid not in (0, os.geteuid())
        raise PermissionError(
            errno.EPERM,
            "its folder %s, so another user could replace the file; choose a folder of root's"
            % ("belongs to user %d" % found.st_uid if foreign else "lets everybody write"),
        )


def _is_ours(folder: os.stat_result) -> bool:
    """Whether only root, or we, can rename files of root's or of ours in this folder. A group may
    be allowed to write, such as Debian's staff in /usr/local: that is root's choice."""
    open_to_all = folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX
    return folder.st_uid in (0, os.geteuid()) and not open_to_all
