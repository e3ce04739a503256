# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The resident program's settings: written, read back, refused by the field's name."""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import FlatnetError
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.overlay.location import (
    Choice,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync import settings
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.sync.settings import (
    Etcd,
    Settings,
)


def test_nothing_said_is_the_defaults() -> None:
    assert settings.parse({}) == Settings()


def test_they_are_read_back_as_written(tmp_path: Path) -> None:
    full = Settings(
        etcd=Etcd(("http://192.0.2.1:2379", "http://192.0.2.2:2379"), "/net", timeout=2.5),
        choice=Choice(interface="eth1", public_ip="192.0.2.9", host_id="a", hostname="b"),
        vtep_mac="02:00:00:00:00:01",
        bridge="cni0",
        ipmasq=True,
        ttl=3600,
        sysctls=(("net.ipv4.conf.all.rp_filter", "2"), ("net.ipv4.ip_forward", "1")),
        metrics_file="/var/lib/node_exporter/flatnet.prom",
        check_interval=30,
        retention=0,
    )
    for each in (full, Settings()):
        path = tmp_path / "sync.json"
        path.write_text(settings.to_json(each))
        assert settings.load(str(path)) == each


BAD: list[tuple[t.Any, str]] = [
    ({"etdc": {}}, "etdc: there is no such field"),
    ({"etcd": {"endpoint": []}}, "etcd.endpoint: there is no such field"),
    ({"etcd": []}, "etcd: must be an object"),
    ({"etcd": {"timeout": "5"}}, "etcd.timeout"),
    ({"etcd": {"timeout": True}}, "etcd.timeout"),
    ({"choice": {"public_ip": "192.0.2.300"}}, "public_ip"),
    ({"choice": {"interface_regex": "("}}, "interface_regex"),
    ({"ttl": -1}, "ttl: -1 is less than 0"),
    ({"ttl": None}, "ttl"),
    ({"check_interval": 0}, "check_interval: 0 is less than 1"),
    ({"retention": -1}, "retention"),
    ({"bridge": "br/0"}, "bridge"),
    ({"vtep_mac": "01:00:00:00:00:01"}, "vtep_mac"),
    ({"ipmasq": "yes"}, "ipmasq"),
    ({"state_file": "state"}, "state_file: 'state' is not an absolute path"),
    ({"metrics_file": "a/b"}, "metrics_file"),
    ({"sysctls": {"kernel.panic": "1"}}, "sysctls: 'kernel.panic'"),
    ({"sysctls": {"net.ipv4/../../kernel.panic": "1"}}, "sysctls"),
    ({"sysctls": {"net.ipv4.ip_forward": 1}}, "sysctls: the value of net.ipv4.ip_forward"),
    ({"sysctls": {"net.ipv4.ip_forward": "1\n2"}}, "sysctls"),
]


@pytest.mark.parametrize(("found", "text"), BAD)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, found: t.Any, text: str) -> None:
    path = tmp_path / "sync.json"
    path.write_text(json.dumps(found))
    with pytest.raises(FlatnetError) as caught:
        settings.load(str(path))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", "\xff"])
def test_what_is_no_settings_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sync.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FlatnetError, match=str(path)):
        settings.load(str(path))


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FlatnetError, match="cannot be read: No such file"):
        settings.load(str(tmp_path / "sync.json"))


def test_a_user_is_told_who_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "sync.json"
    path.write_text("{}")
    path.chmod(0)
    before = os.geteuid()
    os.seteuid(before or 65534)
    try:
        with pytest.raises(FlatnetError, match="Permission denied; only root may read them"):
            settings.load(str(path))
    finally:
        os.seteuid(before)


def test_a_password_is_not_in_an_error(tmp_path: Path) -> None:
    path = tmp_path / "sync.json"
    path.write_text('{"etcd": {"username": "u", "password": "s3cret"}, "ttl": -1}')
    with pytest.raises(FlatnetError) as caught:
        settings.load(str(path))
    assert "s3cret" not in str(caught.value)


def test_controllers_are_addresses_and_are_kept() -> None:
    found = settings.parse({"controllers": ["203.0.113.5"]})
    assert found.controllers == ("203.0.113.5",)
    assert settings.parse(json.loads(settings.to_json(found))) == found
    for bad in (["host.example"], ["fd00::1"], [7], "203.0.113.5"):
        with pytest.raises(FlatnetError, match="controllers"):
            settings.parse({"controllers": bad})
