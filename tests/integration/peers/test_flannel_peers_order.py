# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""flannel_peers among others who apply leases: what is newer is never undone by what is older."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.overlay import PREFIX, Overlay, host_gw_lease
from tests.integration.programs import enter
from tests.integration.proxy import Proxy
from tests.lab import Lab
from tests.lab.system import netns_pids
from tests.lab.waiting import wait

MODULE = "flannel_peers"
HOST_GW = '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}'


@pytest.fixture
def overlay(lab: Lab) -> t.Iterator[Overlay]:
    """host1 holds 10.5.1.0/24, host2 10.5.2.0/24, and host1 reaches host2."""
    made = Overlay(lab)
    made.clean()
    _applied(made).unlink(missing_ok=True)
    made.etcd.put(PREFIX + "/config", HOST_GW)
    made.run("flannel_subnet", subnet="10.5.1.0/24")
    made.put_lease("10.5.2.0/24", host_gw_lease(made.hosts[1].address))
    made.converge(MODULE)
    yield made
    made.clean()


def _applied(overlay: Overlay) -> Path:
    return overlay.host.run / "flatnet/applied"


def _reached(overlay: Overlay) -> set[str]:
    routes = overlay.host.exec(["ip", "-j", "route", "show", "proto", "110"], check=True).stdout
    return {each["dst"] for each in json.loads(routes)}


def _snapshot(overlay: Overlay) -> dict[str, t.Any]:
    found = overlay.run("flannel_subnet_info")
    return {name: found[name] for name in ("config", "leases", "revision")}


def _third(overlay: Overlay) -> None:
    overlay.put_lease("10.5.3.0/24", host_gw_lease(overlay.hosts[2].address))


def test_an_older_snapshot_undoes_nothing(overlay: Overlay) -> None:
    """Taken before somebody else read newer leases and applied them; and it says so."""
    old = _snapshot(overlay)
    _third(overlay)
    overlay.converge(MODULE)
    both = {"10.5.2.0/24", "10.5.3.0/24"}
    assert _reached(overlay) == both
    for check in (True, False):
        done = overlay.run(MODULE, check=check, snapshot=old)
        assert not done["changed"]
        assert any("nothing was changed" in each for each in done["warnings"])
        assert _reached(overlay) == both
    assert overlay.run(MODULE, snapshot=_snapshot(overlay))["warnings"] == []
    # Whoever says no revision means it, such as with an etcd that was restored.
    assert overlay.run(MODULE, snapshot={**old, "revision": 0})["changed"]
    assert _reached(overlay) == {"10.5.2.0/24"}


def _has_open(overlay: Overlay, path: Path, others: set[int]) -> bool:
    """Whether a process of the host has a file open, but for others."""
    for pid in set(netns_pids([overlay.host.netns])) - others:
        folder = Path("/proc/%d/fd" % pid)
        try:
            found = [os.stat(each) for each in folder.iterdir() if each.exists()]
        except OSError:
            continue
        if any(os.path.samestat(each, os.stat(path)) for each in found):
            return True
    return False


def test_who_read_the_leases_too_early_reads_them_again(overlay: Overlay) -> None:
    """It waited for the lock while flatnet-sync applied newer ones."""
    lock = (overlay.host.run / "flatnet/lock").open("r+")
    results: list[dict[str, t.Any]] = []
    others = set(netns_pids([overlay.host.netns]))
    late = threading.Thread(target=lambda: results.append(overlay.run(MODULE)))
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        late.start()
        wait(
            lambda: _has_open(overlay, overlay.host.run / "flatnet/lock", others),
            "the module at the lock",
        )
        _third(overlay)
        revision = overlay.run("flannel_subnet_info")["revision"]
        _applied(overlay).write_text(json.dumps({"10.5.0.0/16": revision}))
    late.join()
    assert results[0]["peers"] == 2
    assert results[0]["revision"] >= revision
    assert _reached(overlay) == {"10.5.2.0/24", "10.5.3.0/24"}


@contextlib.contextmanager
def _proxied(overlay: Overlay) -> t.Iterator[Proxy]:
    """Before etcd, where the host reaches it."""
    url, netns = overlay.etcd.endpoint(1), overlay.host.netns
    with (
        ThreadPoolExecutor(1, initializer=enter, initargs=(netns,)) as inside,
        contextlib.ExitStack() as stack,
    ):
        # Entered there and not here: its sockets are in the namespace of the thread that starts it.
        proxy = inside.submit(lambda: Proxy(url).__enter__()).result()
        stack.push(proxy)
        yield proxy


def test_whoever_is_always_newer_is_left_to_it(overlay: Overlay) -> None:
    """While a fleet joins, flatnet-sync has applied newer leases whenever a listing is there."""
    note, lists = _applied(overlay), 0

    def apply_newer() -> None:
        nonlocal lists
        lists += 1
        # So that one who would list for ever comes to an end.
        known = {"10.5.0.0/16": 1000000 + lists} if lists < 30 else {}
        draft = note.with_suffix(".draft")
        draft.write_text(json.dumps(known))
        draft.replace(note)

    with _proxied(overlay) as proxy:
        proxy.before_list = apply_newer
        done = overlay.run(MODULE, etcd_endpoints=[proxy.url])
    assert 1 < lists < 30
    assert not done["changed"]
    (warning,) = done["warnings"]
    assert "nothing was changed; leases change all the time" in warning
    assert json.loads(note.read_text()) == {"10.5.0.0/16": 1000000 + lists}


def test_an_etcd_of_a_lower_revision_is_believed_in_the_end(overlay: Overlay) -> None:
    """One that was restored from a backup, or made anew: its revisions count from there."""
    _applied(overlay).write_text('{"10.5.0.0/16": 1000000000}')
    _third(overlay)
    done = overlay.run(MODULE)
    assert done["peers"] == 2
    assert any("restored or made anew" in each for each in done["warnings"])
    assert _reached(overlay) == {"10.5.2.0/24", "10.5.3.0/24"}
    assert overlay.run(MODULE)["warnings"] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"10.5.0.0/16": "9"}', '{"10.5.0.0/16": true}'])
def test_a_note_that_is_no_good_is_none(overlay: Overlay, text: str) -> None:
    _applied(overlay).write_text(text)
    _third(overlay)
    done = overlay.run(MODULE)
    assert (done["peers"], done["warnings"]) == (2, [])
    assert json.loads(_applied(overlay).read_text()) == {"10.5.0.0/16": done["revision"]}
