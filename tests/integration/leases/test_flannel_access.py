# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The flannel_* modules and an etcd that wants TLS, client certificates, a user and a password."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import typing as t
from pathlib import Path

import pytest

from tests.integration.etcd_server import Certificates
from tests.integration.overlay import PREFIX, Overlay
from tests.lab import Lab

PASSWORD = "cinnamon-Zebra-8814"
NETWORK = {"network": "10.5.0.0/16", "backend": {"type": "vxlan"}}
MODULES = [
    ("flannel_network", NETWORK),
    ("flannel_subnet", {}),
    ("flannel_subnet_info", {}),
    ("flannel_peers", {}),
]
# What etcd's tokens look like.
TOKEN = re.compile(r"[A-Za-z]{16}\.[0-9]+")


class Locked(Overlay):
    """etcd's users: root, flatnet (may write below the prefix) and reader (may read there)."""

    def __init__(self, lab: Lab, certificates: Certificates) -> None:
        super().__init__(lab)
        etcd = lab.etcd
        etcd.stop()
        etcd.scheme = "https"
        etcd.member_arguments = [
            *certificates.server_arguments("lab", client_auth=True),
            "--bcrypt-cost=4",
        ]
        files = {name: certificates.path(name) for name in ("ca.pem", "client.pem", "client.key")}
        etcd.ctl_arguments = [
            "--cacert=" + files["ca.pem"],
            "--cert=" + files["client.pem"],
            "--key=" + files["client.key"],
        ]
        etcd.start()
        etcd.ctl("role", "add", "root")
        for user, access in (("flatnet", "readwrite"), ("reader", "read")):
            etcd.ctl("user", "add", f"{user}:{PASSWORD}")
            etcd.ctl("role", "add", user)
            etcd.ctl("role", "grant-permission", "--prefix=true", user, access, PREFIX + "/")
            etcd.ctl("user", "grant-role", user, user)
        etcd.ctl("user", "add", "root:" + PASSWORD)
        etcd.ctl("user", "grant-role", "root", "root")
        etcd.ctl("auth", "enable")
        etcd.ctl_arguments.append("--user=root:" + PASSWORD)
        self.etcd_options = {
            "etcd_endpoints": etcd.endpoints,
            "etcd_ca_file": files["ca.pem"],
            "etcd_cert_file": files["client.pem"],
            "etcd_key_file": files["client.key"],
            "etcd_username": "flatnet",
            "etcd_password": PASSWORD,
        }


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    certificates.make("lab", "IP:172.21.0.2")
    return certificates


@pytest.fixture(scope="module")
def overlay(lab_factory: t.Callable[..., Lab], certificates: Certificates) -> Locked:
    return Locked(lab_factory(hosts=1), certificates)


def secretless(result: t.Mapping[str, t.Any]) -> None:
    text = json.dumps(result)
    assert PASSWORD not in text
    assert not TOKEN.search(text)


@pytest.mark.matrix
def test_every_module_gets_in_and_tells_no_secret(overlay: Locked) -> None:
    secretless(overlay.converge("flannel_network", **NETWORK))
    done = overlay.run("flannel_subnet", ttl=600)
    secretless(done)
    secretless(overlay.unchanged("flannel_subnet", ttl=600))
    overlay.make_vtep(done["lease"]["vtep_mac"])
    secretless(overlay.run("flannel_subnet_info"))
    secretless(overlay.unchanged("flannel_peers"))
    secretless(overlay.run("flannel_subnet", state="absent"))
    secretless(overlay.run("flannel_network", state="absent"))


def test_whoever_may_not_is_told_so_in_one_sentence(overlay: Locked) -> None:
    overlay.run("flannel_network", **NETWORK)
    wrong = "wrong-" + PASSWORD[::-1]
    modules = itertools.cycle(MODULES)
    for options, text in [
        ({"etcd_password": wrong}, "does not accept the password of user 'flatnet'"),
        ({"etcd_username": "nobody"}, "does not accept the password of user 'nobody'"),
        ({"etcd_username": None, "etcd_password": None}, "to an anonymous client"),
        ({"etcd_ca_file": None}, "give etcd's CA as etcd_ca_file"),
        ({"etcd_cert_file": None, "etcd_key_file": None}, "give an etcd_cert_file"),
        ({"etcd_endpoints": ["http://172.21.0.2:2379"]}, "etcd_ca_file is given, but endpoint"),
        ({"etcd_endpoints": [f"https://root:{wrong}@172.21.0.2:2379"]}, "has a user or password"),
    ]:
        name, arguments = next(modules)
        message = overlay.refused(name, text, **{**arguments, **options})
        assert wrong not in message
        assert PASSWORD not in message
    reader = {"etcd_username": "reader"}
    overlay.run("flannel_subnet_info", **reader)
    overlay.unchanged("flannel_network", **NETWORK, **reader)
    # Check mode only reads, so it is the real run that fails.
    overlay.refused_for_real("flannel_subnet", "permission", **reader)
    other = {**NETWORK, "subnet_len": 26}
    overlay.refused_for_real("flannel_network", "permission", **other, **reader)


@pytest.mark.parametrize(
    ("option", "file"), [("etcd_ca_file", "other-ca.pem"), ("etcd_cert_file", "stranger.pem")]
)
def test_certificates_of_another_authority_are_refused(
    overlay: Locked, certificates: Certificates, option: str, file: str
) -> None:
    options = {option: certificates.path(file)}
    if option == "etcd_cert_file":
        options["etcd_key_file"] = certificates.path("stranger.key")
    overlay.refused("flannel_subnet_info", "certificate", **options)
    overlay.refused("flannel_network", "certificate", **NETWORK, **options)


def test_nothing_that_ansible_prints_has_a_secret_in_it(
    overlay: Locked, ansible: t.Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    inventory = overlay.lab.inventory(path=tmp_path / "inventory.yml")
    play = [
        {
            "hosts": "flatnet",
            "gather_facts": False,
            "module_defaults": {"group/flatnet.overlay.etcd": overlay.etcd_options},
            "tasks": [
                {"flatnet.overlay.flannel_network": {"state": "absent", "force": True}},
                {"flatnet.overlay.flannel_network": NETWORK},
                {"flatnet.overlay.flannel_subnet": {}},
                {"flatnet.overlay.flannel_subnet_info": {}},
                {
                    "flatnet.overlay.flannel_subnet_info": {"etcd_password": PASSWORD + "no"},
                    "failed_when": False,
                },
                {
                    "flatnet.overlay.flannel_peers": {"etcd_endpoints": ["https://172.21.0.99:1"]},
                    "failed_when": False,
                },
            ],
        }
    ]
    file = tmp_path / "play.yml"
    file.write_text(json.dumps(play))
    done = ansible("ansible-playbook", str(file), "-i", str(inventory), "--diff", "-vvv")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    # It does print the arguments, the diff and the failures.
    assert output.count("VALUE_SPECIFIED_IN_NO_LOG_PARAMETER") >= len(play[0]["tasks"])
    assert '"PublicIP":"172.21.0.11"' in output
    assert "172.21.0.99" in output
    assert PASSWORD not in output
    assert not TOKEN.search(output)
    # Nor has a log on the host.
    logs = subprocess.run(
        ["grep", "-rlF", PASSWORD, str(overlay.host.run), str(overlay.host.etc)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert logs.stdout == ""
