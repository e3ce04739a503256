# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the integration tests: labs, and Ansible to run against them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from tests.integration.namespace import Modules, Namespace
from tests.integration.programs import Programs
from tests.lab import Lab

REPOSITORY = Path(__file__).resolve().parents[2]

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.fail("the integration tests build network namespaces: run them as root")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    # A shell starts background jobs, which CI may be one of, with SIGINT ignored, and whatever they
    # start inherits that: tests that interrupt a program would wait for nothing.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def lab_factory() -> t.Iterator[t.Callable[..., Lab]]:
    """Build labs that last for the test module; takes the arguments of Lab but for the name."""
    labs: list[Lab] = []

    def build(**arguments: int) -> Lab:
        # The process ID keeps the workers of a parallel run apart.
        lab = Lab(f"t{os.getpid()}-{next(_NUMBERS)}", **arguments)
        labs.append(lab.up())
        return lab

    try:
        yield build
    finally:
        for lab in labs:
            lab.down()


@pytest.fixture(scope="module")
def lab(lab_factory: t.Callable[..., Lab]) -> Lab:
    """Three hosts on one segment, and etcd."""
    return lab_factory(hosts=3)


@pytest.fixture(scope="session")
def ansible() -> t.Callable[..., subprocess.CompletedProcess[str]]:
    """Run one of Ansible's commands on the working tree: ansible("ansible-playbook", …)."""

    def run(command: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name(command)), *arguments],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".cache" / "collections"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_DEPRECATION_WARNINGS": "0",
                **env,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def modules() -> t.Iterator[Modules]:
    """Runs modules in namespaces, with the target's Python."""
    with Modules() as running:
        yield running


@pytest.fixture
def ns(modules: Modules) -> t.Iterator[Namespace]:
    """A network namespace with an underlay."""
    with Namespace(modules) as made:
        yield made


@pytest.fixture(scope="module")
def programs(lab: Lab) -> t.Iterator[Programs]:
    """flatnet-sync on the hosts of the module's lab."""
    made = Programs(lab)
    try:
        yield made
    finally:
        made.close()
