# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian system that booted hosts start from, made once and kept.

It holds what a host needs to be reached by Ansible and nothing of what our roles install: that is
in an apt repository inside of it, since a lab has no uplink.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import typing as t
from pathlib import Path

from .system import LabError, mounts_below, run

CACHE = Path("/var/cache/flatnet-lab")

#: What boots, manages its network and answers over SSH; Debian's essential packages come with it.
SYSTEM = "systemd systemd-sysv udev dbus iproute2 openssh-server python3".split()

#: What hosts can install: what our roles ask for, and what Ansible's apt module needs.
OFFERED = "fping python3-apt python3-pyroute2".split()

#: Raised when the way in which the system is made changes.
_RECIPE = 1

_REPOSITORY = "/srv/apt"

_FILES = {
    "etc/apt/sources.list": f"deb [trusted=yes] file:{_REPOSITORY} ./\n",
    # systemd starts udev only where /sys can be written, and a container's is read-only; networkd
    # waits for udev only there, too. A container's /sys is a tmpfs over parts of the real one.
    "etc/systemd/system/writable-sys.service": """\
[Unit]
Description=Writable /sys, for udev
DefaultDependencies=no
Before=sysinit.target systemd-udevd.service systemd-udev-trigger.service
Before=systemd-udevd-control.socket systemd-udevd-kernel.socket

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mount -o remount,rw /sys
ExecStart=mount -o remount,rw /sys/devices
""",
    # Other devices are the machine's, and none of a host's business.
    "etc/systemd/system/systemd-udev-trigger.service.d/lab.conf": """\
[Service]
ExecStart=
ExecStart=udevadm trigger --type=devices --action=add --subsystem-match=net
""",
    # A name server would be asked for the name of whoever logs in.
    "etc/resolv.conf": "# A lab has no uplink, so it has no name server.\n",
}

_LINKS = {
    "etc/systemd/system/sysinit.target.wants/writable-sys.service": (
        "/etc/systemd/system/writable-sys.service"
    ),
    "etc/systemd/system/multi-user.target.wants/systemd-networkd.service": (
        "/lib/systemd/system/systemd-networkd.service"
    ),
}

#: A system's own identity, which each host gets for itself.
_IDENTITY = ["etc/machine-id", "etc/hostname", "var/lib/dbus/machine-id", "etc/ssh/ssh_host_*"]


class Source(t.NamedTuple):
    """Where the machine gets its Debian from."""

    uri: str
    suite: str
    keyring: str | None


def system() -> Path:
    """The root directory of the system; made now unless it is there."""
    source = _source()
    recipe = repr((_RECIPE, source.suite, SYSTEM, OFFERED, _REPOSITORY, _FILES, _LINKS))
    root = CACHE / f"{source.suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            draft = root.with_name(f"{root.name}.new")
            # From a run that was interrupted; debootstrap mounts a few things meanwhile.
            _remove(draft)
            print(f"making the hosts' Debian system in {root}, once: a minute or two", flush=True)
            try:
                _make(source, draft)
                draft.rename(root)
            finally:
                _remove(draft)
    return root


def _make(source: Source, root: Path) -> None:
    options = [f"--keyring={source.keyring}"] if source.keyring else []
    options += ["--variant=minbase", f"--include={','.join(SYSTEM)}"]
    _loudly(["debootstrap", *options, source.suite, str(root), source.uri])
    run(["chroot", str(root), "apt-get", "clean"])
    for pattern in _IDENTITY:
        for path in root.glob(pattern):
            path.unlink()
    for name, text in _FILES.items():
        path = root / name
        path.unlink(missing_ok=True)  # a link, perhaps
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name, target in _LINKS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    _make_repository(root)
    run(["chroot", str(root), "apt-get", "-q", "update"])


def _make_repository(root: Path) -> None:
    """What is offered, and what that needs on top of the system, as an apt repository."""
    directory = root / _REPOSITORY.lstrip("/")
    (directory / "partial").mkdir(parents=True)
    # The machine's sources and lists, but the system's own record of what is installed.
    _loudly(
        [
            *"apt-get --download-only --no-install-recommends --yes -q".split(),
            f"-oDir::State::status={root}/var/lib/dpkg/status",
            f"-oDir::Cache::archives={directory}",
            "-oAPT::Sandbox::User=root",
            "install",
            *OFFERED,
        ]
    )
    (directory / "lock").unlink(missing_ok=True)
    (directory / "partial").rmdir()
    index = []
    for deb in sorted(directory.glob("*.deb")):
        content = deb.read_bytes()
        index += [
            run(["dpkg-deb", "--field", str(deb)]).rstrip("\n"),
            f"Filename: ./{deb.name}",
            f"Size: {len(content)}",
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n\n",
        ]
    (directory / "Packages").write_text("\n".join(index), encoding="utf-8")


def _loudly(argv: list[str]) -> None:
    """Run what takes long, its output kept for the case that it fails."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise LabError(
            f"{argv[0]} failed ({done.returncode}) while making the hosts' Debian system; if it is "
            f"a matter of old package lists, run 'apt-get update'. Its last lines:\n{tail}"
        )


def _remove(directory: Path) -> None:
    for point in mounts_below(directory):
        run(["umount", point])
    if directory.exists():
        shutil.rmtree(directory)


def _source() -> Source:
    """The machine's first source of its own Debian release."""
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
        if "=" in line
    )
    suite = release.get("VERSION_CODENAME", "").strip('"')
    if release.get("ID") != "debian" or not suite:
        raise LabError("booted hosts are made from the machine's own Debian, and this is not one")
    for source in _sources(Path("/etc/apt")):
        if source.suite == suite:
            return source
    raise LabError(
        f"/etc/apt names no source of packages for {suite!r}, component main, which booted hosts "
        "could be made from"
    )


def _sources(apt: Path) -> t.Iterator[Source]:
    """Sources that have a component main, in both forms that apt reads."""
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]:
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                yield from _one_line(line)
    for path in sorted((apt / "sources.list.d").glob("*.sources")):
        for stanza in path.read_text(encoding="utf-8").split("\n\n"):
            yield from _stanza(stanza)


def _one_line(line: str) -> t.Iterator[Source]:
    """deb [option=value …] URI suite component …"""
    words = line.partition("#")[0].replace("[", " [ ").replace("]", " ] ").split()
    if not words or words[0] != "deb":
        return
    options = {}
    if words[1:2] == ["["] and "]" in words:
        end = words.index("]")
        options = dict(word.split("=", 1) for word in words[2:end] if "=" in word)
        del words[1 : end + 1]
    if "main" in words[3:]:
        yield Source(words[1], words[2], options.get("signed-by"))


def _stanza(stanza: str) -> t.Iterator[Source]:
    """Fields of a stanza of deb822; Signed-By is used where it is a file."""
    fields = {}
    for line in stanza.splitlines():
        if not line.startswith(("#", " ", "\t")) and ":" in line:
            name, value = line.split(":", 1)
            fields[name.lower()] = value.split()
    if "deb" not in fields.get("types", []) or fields.get("enabled") == ["no"]:
        return
    if "main" not in fields.get("components", []):
        return
    keyring = next((key for key in fields.get("signed-by", []) if key.startswith("/")), None)
    for uri in fields.get("uris", []):
        for suite in fields.get("suites", []):
            yield Source(uri, suite, keyring)
