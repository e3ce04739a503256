# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The core as a package on a host, for a program that stays there. Each program has its own.

    <prefix>/lib/flatnet-sync/0.1.0-3fb0c8d2a1e4/flatnet/    the sources, and their bytecode
    <prefix>/lib/flatnet-sync/0.1.0-3fb0c8d2a1e4/bytecode    what that was when it was made
    <prefix>/lib/flatnet-sync/current                        a link to the one in use
    <prefix>/sbin/flatnet-sync                               starts the one in use

The sources are those that the running module itself was imported from. Ansible sends a module all
that it imports, so nothing else has to be copied to a host. A package has those of them that its
program imports.

Python runs whatever bytecode it finds. So all of the package is compared: the sources with those
that came with the module, the bytecode with the digests that were written down when it was made.
The programs themselves write no bytecode.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import stat
import subprocess
from importlib.machinery import ModuleSpec
from typing import NamedTuple

from ..errors import FlatnetError

VERSION = "0.1.0"  # the collection's, as in galaxy.yml
NAME = "flatnet"
# The programs, and their commands.
COMMANDS = {"sync": "flatnet-sync", "relay": "flatnet-relay"}
_ROOT = __name__.rpartition(".install.")[0]
_SUPERVISOR = "install.supervisor"
_VERSION_FILE = "__init__.py"
_MANIFEST = "bytecode"
_CACHE = "__pycache__"
_VERSION_NAME = re.compile(r"[0-9]+(\.[0-9]+){2}-[0-9a-f]{12}(\+[0-9a-f]{8})?")
_DRAFT_NAME = re.compile(r"current\.[0-9a-f]{8}")

_IMPORT = re.compile(r"^ *from (\.+)([\w.]*) import (\([^)]*\)|.*)$", re.MULTILINE)
_LAUNCHER = """\
#!%s -IB
import os
import sys

# The folder itself, not the link: an update must not mix two versions in one process.
sys.path.insert(0, os.path.realpath("%s"))
from flatnet.%s.command import main

sys.exit(main())
"""


class NotInstalled(FlatnetError):
    """The package cannot be put in place."""


class Installed(NamedTuple):
    """The version that is in place (None: none), and what is wrong with it."""

    name: str | None
    flaws: tuple[str, ...]

    def __str__(self) -> str:
        name = self.name or "none"
        flaws = ", ".join(self.flaws[:3])
        return "%s, but %s" % (name, flaws) if flaws else name


def _spec(name: str) -> ModuleSpec | None:
    return importlib.util.find_spec("%s.%s" % (_ROOT, name))


def _is_folder(name: str) -> bool:
    spec = _spec(name)
    return spec is not None and spec.submodule_search_locations is not None


@functools.cache
def _source(name: str) -> tuple[str, bytes, tuple[str, ...]] | None:
    """A module's path in the package, its text, and the modules that it imports. None if there is
    no such module: then a docstring had something that looks like an import."""
    spec = _spec(name)
    if spec is None or spec.loader is None:
        if name == _SUPERVISOR or name.endswith(".command"):
            raise NotInstalled(
                "the module %s.%s was not sent to this host; run the collection's own modules"
                % (_ROOT, name)
            )
        return None
    text: str = spec.loader.get_source(spec.name)  # type: ignore[attr-defined]
    is_package = spec.submodule_search_locations is not None
    path = name.replace(".", "/") + ("/__init__.py" if is_package else ".py")
    imported = _imported(name if is_package else name.rpartition(".")[0], text)
    return path, text.encode(), tuple(imported)


def _closure(*names: str) -> dict[str, bytes]:
    """The files of these modules and of all that they import, by their path in the package."""
    found = {}
    todo = list(names)
    seen = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        source = _source(name)
        if source:
            found[source[0]] = source[1]
            folder = name.rpartition(".")[0]
            todo += (*source[2], folder) if folder else source[2]
    return found


@functools.cache
def sources(program: str) -> dict[str, bytes]:
    """The files of a program's package, by their path in it."""
    found = _closure("%s.command" % program, _SUPERVISOR)
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(b"%s %d\n" % (path.encode(), len(found[path])) + found[path])
    version = "%s-%s" % (VERSION, digest.hexdigest()[:12])
    found[_VERSION_FILE] = b'__version__ = "%s"\n' % version.encode()
    return found


def _imported(package: str, text: str) -> list[str]:
    """The modules that relative imports in a source of ``package`` name."""
    found = []
    for dots, module, names in _IMPORT.findall(text):
        parts = package.split(".") if package else []
        parts = parts[: len(parts) - (len(dots) - 1)] + (module.split(".") if module else [])
        found += [".".join(parts[: length + 1]) for length in range(len(parts))]
        if not parts or _is_folder(found[-1]):
            words = re.findall(r"\w+(?: as \w+)?", names)
            found += [".".join([*parts, word.split()[0]]) for word in words]
    return found


def version(program: str) -> str:
    """The name of the version that ``sources`` are."""
    return sources(program)[_VERSION_FILE].decode().split('"')[1]


def directory(prefix: str, program: str) -> str:
    return os.path.join(prefix, "lib", COMMANDS[program])


def current(prefix: str, program: str) -> str:
    """Where the version in use is; the program is started from here."""
    return os.path.join(directory(prefix, program), "current")


def supervisor_path(prefix: str, program: str) -> str:
    """The script that keeps the program running where there is no systemd."""
    return os.path.join(current(prefix, program), NAME, *_SUPERVISOR.split(".")) + ".py"


def launcher_path(prefix: str, program: str) -> str:
    return os.path.join(prefix, "sbin", COMMANDS[program])


def launcher(prefix: str, python: str, program: str) -> str:
    """The file that is the program's command."""
    if not os.path.isabs(python) or len(python.split()) != 1 or not os.access(python, os.X_OK):
        raise NotInstalled("python: %s is not the absolute path of an interpreter" % python)
    return _LAUNCHER % (python, current(prefix, program), program)


def observe(prefix: str, program: str) -> Installed:
    """What is in place, compared with ``sources``."""
    top = directory(prefix, program)
    try:
        target = os.path.join(top, os.readlink(current(prefix, program)))
    except OSError:
        # A run that was cut short may have left something.
        return Installed(None, ("a part of it is there",) if os.path.lexists(top) else ())
    name = os.path.basename(target).partition("+")[0]
    if name != version(program):
        return Installed(name, ())
    flaws = _flaws(os.path.join(target, NAME), sources(program))
    return Installed(name, tuple(flaws.values()))


def _flaws(top: str, wanted: dict[str, bytes]) -> dict[str, str]:
    """What is not as it was installed, by the path of the source that is concerned."""
    bytecode = _read_manifest(top)
    missing = {*wanted, *bytecode}
    flaws = {} if bytecode else {_MANIFEST: "the digests of its bytecode are missing"}
    for folder, folders, files in os.walk(top):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for path in [folder, *(os.path.join(folder, name) for name in files + links)]:
            short = os.path.relpath(path, top)
            status = os.lstat(path)
            is_folder = stat.S_ISDIR(status.st_mode)
            missing.discard(short)
            if not is_folder and not _is_right(path, wanted.get(short), bytecode.get(short)):
                flaws[_source_of(short)] = "%s was changed" % short
            safe = 0o755 if is_folder else 0o644
            if stat.S_IMODE(status.st_mode) != safe or status.st_uid != os.geteuid():
                flaws.setdefault(_source_of(short), "%s has other permissions" % short)
    for short in sorted(missing):
        flaws.setdefault(_source_of(short), "%s is missing" % short)
    return flaws


def _is_right(path: str, source: bytes | None, digest: str | None) -> bool:
    """Whether a file is the source, or the bytecode, that it should be."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return False
    with open(path, "rb") as file:
        found = file.read()
    return found == source if digest is None else hashlib.sha256(found).hexdigest() == digest


def _source_of(path: str) -> str:
    """The source that bytecode was made from; any other file is its own source."""
    folder, name = os.path.split(path)
    above, last = os.path.split(folder)
    return os.path.join(above, name.partition(".")[0] + ".py") if last == _CACHE else path


def _manifest(top: str) -> str:
    return os.path.join(os.path.dirname(top), _MANIFEST)


def _read_manifest(top: str) -> dict[str, str]:
    """The digests of the bytecode when it was made, by path; empty if there are none."""
    try:
        with open(_manifest(top), encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip("\n").partition(" ") for line in file]
    except OSError:
        return {}
    return {path: digest for digest, dummy, path in lines}


def _write_manifest(top: str) -> None:
    lines = []
    for folder, dummy, files in os.walk(top):
        for name in files if os.path.basename(folder) == _CACHE else ():
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
            lines.append("%s %s\n" % (digest, os.path.relpath(path, top)))
    _write(_manifest(top), "".join(sorted(lines)).encode())


def install(prefix: str, python: str, program: str) -> None:
    """Put ``sources`` in place and use them. The versions before stay until ``clean``."""
    top = directory(prefix, program)
    target = os.path.join(top, version(program))
    if os.path.lexists(target):  # damaged, or left by a run that was cut short
        target += "+" + secrets.token_hex(4)
    try:
        for folder in (prefix, os.path.join(prefix, "lib")):
            os.makedirs(folder, mode=0o755, exist_ok=True)
        _folder(top)
        try:
            _fill(target, python, program)
        except BaseException:
            # Else each attempt on a full disk would leave even less room.
            shutil.rmtree(target, ignore_errors=True)
            raise
        link = current(prefix, program)
        draft = "%s.%s" % (link, secrets.token_hex(4))
        os.symlink(os.path.basename(target), draft)
        os.replace(draft, link)
        _sync(top)
    except OSError as error:
        raise NotInstalled(
            "the package cannot be put in place: %s: %s" % (error.filename or top, error.strerror)
        ) from None


def _fill(target: str, python: str, program: str) -> None:
    """Make the folder of a version, with all that it consists of, and bring it to disk."""
    _folder(target)
    package = os.path.join(target, NAME)
    _folder(package)
    for path, content in sources(program).items():
        for depth in range(path.count("/")):
            _folder(os.path.join(package, *path.split("/")[: depth + 1]))
        _write(os.path.join(package, path), content)
    _compile(package, python)
    _write_manifest(package)
    _bring_to_disk(target)


def _folder(path: str) -> None:
    """A folder that only root can write, whatever the umask and the parent's group are."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)
    os.chown(path, os.geteuid(), os.getegid())
    os.chmod(path, 0o755)


def _write(path: str, content: bytes) -> None:
    """Write a new file, in a folder that nobody uses yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o644), "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(content)


def _bring_to_disk(top: str) -> None:
    """All of a folder, so that a host that loses its power does not use a part of it."""
    for folder, dummy, files in os.walk(top):
        for path in [*(os.path.join(folder, name) for name in files), folder]:
            _sync(path)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _compile(package: str, python: str) -> None:
    """Make the bytecode. This also shows that ``python`` works."""
    done = subprocess.run(
        [python, "-I", "-m", "compileall", "-q", package],
        capture_output=True,
        text=True,
        check=False,
        umask=0o022,
    )
    if done.returncode:
        # The first file is enough: all others fail for the same reason.
        said = (done.stdout + done.stderr).strip().partition("\n*** ")[0]
        raise NotInstalled(
            "python: %s does not compile the package: %s"
            % (python, said or "status %d" % done.returncode)
        )


def clean(prefix: str, program: str) -> None:
    """Remove versions that are not in use."""
    top = directory(prefix, program)
    used = {"current", os.path.basename(os.path.realpath(current(prefix, program)))}
    for name in os.listdir(top):
        path = os.path.join(top, name)
        if name in used:
            continue
        if os.path.islink(path):
            os.unlink(path)
        else:
            shutil.rmtree(path)
    _remove_shared(prefix)


def _remove_shared(prefix: str) -> None:
    """Remove the package that earlier versions had for all programs, once none starts from it. The
    folder may have files of others too, such as the state where the prefix is /var."""
    shared = os.path.join(prefix, "lib", NAME)
    link = os.path.join(shared, "current")
    if os.path.islink(shared):
        return
    if os.path.islink(link) and not any(_starts_from(link, prefix, each) for each in COMMANDS):
        for name in os.listdir(shared):
            path = os.path.join(shared, name)
            if _VERSION_NAME.fullmatch(name) and os.path.isdir(os.path.join(path, NAME)):
                shutil.rmtree(path)
            elif _DRAFT_NAME.fullmatch(name) and os.path.islink(path):
                os.unlink(path)
        # Last: the link tells a run that follows an interrupted one what the folder is.
        os.unlink(link)
    with contextlib.suppress(OSError):
        os.rmdir(shared)


def _starts_from(link: str, prefix: str, program: str) -> bool:
    try:
        with open(launcher_path(prefix, program), "rb") as file:
            return os.fsencode('"%s"' % link) in file.read()
    except FileNotFoundError:
        return False


def remove(prefix: str, program: str) -> None:
    """Remove a program: its command and its package, and folders that are empty then."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(launcher_path(prefix, program))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory(prefix, program))
    _remove_shared(prefix)
    if os.path.dirname(prefix) not in ("/", "/usr"):  # the system's own, as /usr/local
        for folder in (os.path.join(prefix, "lib"), os.path.join(prefix, "sbin"), prefix):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
