# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible runs on hosts of a lab by way of the connection plugin netns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from tests.lab import Lab

pytestmark = pytest.mark.matrix

Adhoc = t.Callable[..., "subprocess.CompletedProcess[str]"]

REPOSITORY = Path(__file__).resolve().parents[3]

UNREACHABLE = 4


@pytest.fixture(scope="module")
def adhoc(lab: Lab, ansible: t.Callable[..., subprocess.CompletedProcess[str]]) -> Adhoc:
    """Run a module with arguments on hosts of the lab, with more variables if given."""
    inventory = str(lab.inventory())

    def run(
        hosts: str, module: str, arguments: str, *options: str, code: int = 0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        given = ["-e", json.dumps(variables)]
        done = ansible(
            *("ansible", hosts, "-i", inventory, "-m", module, "-a", arguments),
            *given,
            *options,
            ANSIBLE_CALLBACK_RESULT_FORMAT="json",
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.mark.parametrize("pipelining", ["true", "false"])
def test_modules_run_inside(lab: Lab, adhoc: Adhoc, tmp_path: Path, pipelining: str) -> None:
    arguments = "gather_subset=!all,network"
    adhoc("flatnet", "setup", arguments, "--tree", str(tmp_path), ansible_pipelining=pipelining)
    for host in lab.hosts:
        facts = json.loads((tmp_path / host.name).read_text())["ansible_facts"]
        assert facts["ansible_default_ipv4"]["address"] == host.address
        assert facts["ansible_nodename"] == host.name
        assert sorted(facts["ansible_interfaces"]) == ["eth0", "lo"]


def test_copied_files_land_in_the_hosts_own_directories(
    lab: Lab, adhoc: Adhoc, tmp_path: Path
) -> None:
    source = tmp_path / "file"
    source.write_bytes(os.urandom(300_000))
    first, second = lab.hosts[:2]
    for own in (first.etc, first.run):
        target = f"/{own.name}/flatnet test's file"
        assert "CHANGED" in adhoc("host1", "copy", f'src={source} dest="{target}"').stdout
        assert "SUCCESS" in adhoc("host1", "copy", f'src={source} dest="{target}"').stdout
        assert (own / "flatnet test's file").read_bytes() == source.read_bytes()
        assert second.exec(["test", "-e", target]).returncode == 1
        assert not Path(target).exists()


def test_templates_are_the_hosts_own(lab: Lab, adhoc: Adhoc, tmp_path: Path) -> None:
    source = tmp_path / "motd.j2"
    source.write_text("{{ inventory_hostname }} at {{ ansible_host }}\n")
    adhoc("flatnet", "template", f"src={source} dest=/etc/motd.flatnet")
    for host in lab.hosts:
        assert (host.etc / "motd.flatnet").read_text() == f"{host.name} at {host.address}\n"
    assert not Path("/etc/motd.flatnet").exists()


def test_fetch_gets_each_hosts_own_file(lab: Lab, adhoc: Adhoc, tmp_path: Path) -> None:
    adhoc("flatnet", "fetch", f"src=/etc/machine-id dest={tmp_path}")
    for host in lab.hosts:
        assert (tmp_path / host.name / "etc/machine-id").read_text() == f"{host.machine_id}\n"


def test_fetch_of_what_is_not_there_fails(adhoc: Adhoc, tmp_path: Path) -> None:
    done = adhoc("host1", "fetch", f"src=/etc/nothing dest={tmp_path}", code=2)
    assert "the remote file does not exist" in done.stdout


def test_copy_of_what_is_not_there_fails(adhoc: Adhoc, tmp_path: Path) -> None:
    done = adhoc("host1", "copy", f"src={tmp_path}/nothing dest=/etc/nothing", code=2)
    assert "Could not find or access" in done.stdout + done.stderr


def test_transfers_that_fail_say_why(lab: Lab, tmp_path: Path) -> None:
    script = f"""
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader, init_plugin_loader

init_plugin_loader([])
connection = connection_loader.get("flatnet.overlay.netns", PlayContext())
connection.set_options(direct={{"namespace": "{lab.hosts[0].netns}"}})
for transfer in (
    lambda: connection.put_file("/nonexistent/source", "/run/target"),
    lambda: connection.put_file("/etc/passwd", "/proc/target"),
    lambda: connection.fetch_file("/nonexistent/source", "{tmp_path}/target"),
    lambda: connection.fetch_file("/etc", "{tmp_path}/target"),
    lambda: connection.fetch_file("/etc/passwd", "/nonexistent/target"),
):
    try:
        transfer()
    except Exception as exc:
        print(type(exc).__name__, str(exc).splitlines()[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".cache/collections")},
        capture_output=True,
        text=True,
        check=True,
    )
    inside = f"in network namespace '{lab.hosts[0].netns}'"
    errors = done.stdout.splitlines()
    assert len(errors) == 5
    for error, kind, text in zip(
        errors,
        ["AnsibleFileNotFound", *["AnsibleError"] * 4],
        [
            "file or module does not exist: /nonexistent/source",
            f"failed to put /proc/target {inside}: ",
            f"failed to fetch /nonexistent/source {inside}: ",
            f"failed to fetch /etc {inside}: ",
            "cannot write /nonexistent/target: No such file or directory",
        ],
    ):
        assert error.startswith(f"{kind} {text}")


def test_return_codes_and_output_come_back(adhoc: Adhoc) -> None:
    done = adhoc("host1", "raw", "echo out; echo err >&2; exit 255", code=2)
    assert "rc=255" in done.stdout
    assert "out" in done.stdout
    assert "err" in done.stdout
    assert "UNREACHABLE" not in done.stdout


def test_a_command_starts_in_the_home_directory(adhoc: Adhoc) -> None:
    assert adhoc("host1", "command", "pwd").stdout.split()[-1] == str(Path.home())


def test_become_goes_on_from_root_inside(lab: Lab, adhoc: Adhoc) -> None:
    done = adhoc(
        "host1",
        "raw",
        "id -un; uname -n",
        "--become",
        "--become-method=su",
        "--become-user=nobody",
        ansible_become_flags="-s /bin/sh",
    )
    assert done.stdout.split()[-2:] == ["nobody", lab.hosts[0].name]


def test_without_etc_the_convention_of_iproute2_holds(lab: Lab, adhoc: Adhoc) -> None:
    directory = Path("/etc/netns", lab.hosts[0].netns)
    made = not directory.parent.exists()
    directory.mkdir(parents=True)
    try:
        (directory / "hostname").write_text("from-netns\n")
        shown = adhoc("host1", "command", "cat /etc/hostname", ansible_netns_etc="")
        assert shown.stdout.split()[-1] == "from-netns"
    finally:
        (directory / "hostname").unlink()
        directory.rmdir()
        if made:
            directory.parent.rmdir()


def test_a_missing_namespace_is_named(adhoc: Adhoc) -> None:
    done = adhoc("host1", "ping", "", code=UNREACHABLE, ansible_netns_name="nowhere")
    assert "UNREACHABLE" in done.stdout
    assert "there is no network namespace 'nowhere'" in done.stdout
    assert "'ip netns list' shows those that exist" in done.stdout


def test_a_name_that_is_a_path_is_refused(adhoc: Adhoc) -> None:
    done = adhoc("host1", "ping", "", code=UNREACHABLE, ansible_netns_name="../../proc/1/ns/net")
    assert "is not the name of a network namespace" in done.stdout


def test_a_stale_file_is_told_from_a_namespace(adhoc: Adhoc) -> None:
    path = Path(f"/run/netns/stale-{os.getpid()}")
    path.touch()
    try:
        done = adhoc("host1", "ping", "", code=UNREACHABLE, ansible_netns_name=path.name)
        assert "is a plain file that a deleted network namespace left" in done.stdout
    finally:
        path.unlink()


@pytest.mark.parametrize(("option", "target"), [("etc", "/etc"), ("run", "/run")])
def test_a_missing_directory_is_named(adhoc: Adhoc, option: str, target: str) -> None:
    variables = {f"ansible_netns_{option}": "/nonexistent/dir"}
    done = adhoc("host1", "ping", "", code=UNREACHABLE, **variables)
    assert f"the directory /nonexistent/dir to be mounted over {target}" in done.stdout


def test_a_relative_directory_is_refused(adhoc: Adhoc) -> None:
    done = adhoc("host1", "ping", "", code=UNREACHABLE, ansible_netns_etc="etc")
    assert "'etc', to be mounted over /etc" in done.stdout


def test_who_is_not_root_is_told(lab: Lab) -> None:
    script = (
        "import os, sys; os.setuid(65534); sys.path.insert(0, '.')\n"
        "from plugins.plugin_utils import netns\n"
        f"netns.check('{lab.hosts[0].netns}')"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "run Ansible itself as root" in done.stderr


def test_the_plugin_is_documented(
    ansible: t.Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = ansible("ansible-doc", "-t", "connection", "--json", "flatnet.overlay.netns")
    assert done.returncode == 0, done.stderr
    options = json.loads(done.stdout)["flatnet.overlay.netns"]["doc"]["options"]
    assert {"namespace", "etc", "run", "hostname", "pipelining"} <= set(options)


def test_nothing_stays_mounted_and_entering_is_cheap(lab: Lab) -> None:
    host = lab.hosts[0]

    def mounts() -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        # Other labs may come and go; what the plugin mounts, it mounts on these.
        return [line for line in lines if line.split()[4] in ("/etc", "/run", "/sys")]

    before = mounts()
    host.exec(["true"], check=True)
    assert mounts() == before
