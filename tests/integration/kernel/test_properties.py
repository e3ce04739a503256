# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for any entries on a real kernel: the plan and the adapter, without modules.

Each example starts from a kernel that holds some generated entries, ours and others', and asks for
some others.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import typing as t
from dataclasses import dataclass, field

import pytest
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel import (
    messages,
    netlink,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.entries import (
    PROTOCOL,
    ZERO_MAC,
    Entry,
    Fdb,
    Neigh,
    Route,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.kernel import (
    Kernel,
    KernelError,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.kernel.plan import (
    Change,
    Changes,
    RouteTaken,
    diff,
    inverse,
    outcome,
    plan,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task import (
    entry_changes,
    entry_options,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.namespace import Modules, Namespace

pytestmark = pytest.mark.matrix

VTEP, OTHER, UNDERLAY = "flannel.1", "vxlan2", "u0"
EXAMPLES = settings(max_examples=200, deadline=None, derandomize=True, database=None)

Entries = list[t.Any]


@pytest.fixture(scope="module")
def kernel(modules: Modules) -> t.Iterator[Kernel]:
    """The kernel of a namespace that the tests of this file run in."""
    with Namespace(modules) as ns:
        ns.sh(
            *(
                f"ip link add {name} type vxlan id {vni} local 172.30.1.11 dev u0 dstport {port}; "
                f"ip address add 10.5.{vni}.0/32 dev {name}; ip link set {name} up"
                for name, vni, port in ((VTEP, 1, 8472), (OTHER, 2, 8473))
            ),
        )
        with ns.inside(), Kernel() as found:
            yield found


# --- what there can be ----------------------------------------------------------------------------

# Few values, so that what is there and what is wanted meet often.
macs = st.sampled_from([f"02:00:00:00:00:{n:02x}" for n in range(4)])
many_macs = st.sampled_from([ZERO_MAC, "01:00:5e:01:02:03"])
hosts = st.sampled_from([f"172.30.1.{n}" for n in range(12, 16)])
ports = st.sampled_from([None, 4789, 65535])
vnis = st.sampled_from([None, 7, (1 << 24) - 1])
vias = st.sampled_from([None, UNDERLAY])


def fdbs(dev: str = VTEP) -> st.SearchStrategy[Fdb]:
    mac = st.one_of(macs, many_macs)
    return st.builds(Fdb, st.just(dev), mac, hosts, ports, vnis, vias, src_vni=st.none())


def neighs(dev: str = VTEP) -> st.SearchStrategy[Neigh]:
    addresses = [f"10.5.{n}.0" for n in range(10, 14)] + [f"fd05:{n}::" for n in range(10, 13)]
    return st.builds(Neigh, st.just(dev), st.sampled_from([*addresses, "fe80::7"]), macs)


@st.composite
def route_entries(draw: st.DrawFn, protocols: t.Sequence[int] = (PROTOCOL,)) -> Route:
    if draw(st.booleans()):
        dst, gateway, metrics = "10.%d.0.0/16", "172.30.1.%d", (0, 5)
        src = draw(st.sampled_from([None, "172.30.1.11", "172.30.1.21"]))
    else:
        dst, gateway, metrics = "fd%d::/32", "fd30::%d", (0, 5, 512)
        src = None
    dev, onlink, hop = draw(
        st.sampled_from(
            [(UNDERLAY, False, 12), (UNDERLAY, False, 13), (VTEP, True, 12), (VTEP, False, None)]
        )
    )
    if onlink:  # not an address of another device's link: the kernel would object
        gateway = gateway.replace("172.30.1.", "10.7.7.").replace("fd30", "fd07")
    return Route(
        dst % draw(st.integers(20, 23)),
        dev,
        gateway % hop if hop else None,
        onlink,
        mtu=draw(st.sampled_from([None, 1300, 65520])),
        src=src,
        metric=draw(st.sampled_from(metrics)),
        protocol=draw(st.sampled_from(protocols)),
    )


def sets(entries: st.SearchStrategy[t.Any]) -> st.SearchStrategy[Entries]:
    return st.lists(entries, max_size=10, unique_by=lambda entry: entry.key)


@dataclass
class Sort:
    """One sort of entry: how to ask for it, and where it is observed."""

    form: t.Any
    observe: t.Callable[[Kernel], Entries]
    wanted: st.SearchStrategy[Entries]
    # What is there first, of which ``foreign`` says what nobody but its owner may touch.
    there: st.SearchStrategy[Entries]
    foreign: t.Callable[[t.Any], bool]
    device: str | None = VTEP
    more: dict[str, t.Any] = field(default_factory=dict)

    def ask(self, entries: Entries, exclusive: bool, state: str = "present") -> dict[str, t.Any]:
        """A module's arguments for these entries."""
        return {
            "device": self.device,
            "entries": [
                {option: getattr(entry, name) for option, name in self.form.names.items()}
                for entry in entries
            ],
            "exclusive": exclusive,
            "state": state,
            **dict.fromkeys(name for name in self.form.names if name != "device"),
            **self.more,
        }

    def compute(self, kernel: Kernel, params: dict[str, t.Any]) -> t.Callable[[], Changes]:
        """What the modules hand to Kernel.converge."""
        if self.form is entry_options.ROUTE:
            items = entry_options.routes(params)
            return lambda: entry_changes.route_changes(params, items, kernel.routes())
        items = (entry_options.fdb if self.form is entry_options.FDB else entry_options.neigh)(
            params
        )
        return lambda: entry_changes.changes(
            self.form, params, items, [e for e in self.observe(kernel) if e.dev == VTEP]
        )


def on_devices(read: str) -> t.Callable[[Kernel], Entries]:
    return lambda kernel: [e for dev in (VTEP, OTHER) for e in getattr(kernel, read)(dev)]


SORTS = {
    "fdb": Sort(
        entry_options.FDB,
        on_devices("fdb"),
        sets(fdbs()),
        sets(st.one_of(fdbs(), fdbs(OTHER))),
        lambda entry: entry.dev == OTHER,
    ),
    "neigh": Sort(
        entry_options.NEIGH,
        on_devices("neighbours"),
        sets(neighs()),
        sets(st.one_of(neighs(), neighs(OTHER))),
        lambda entry: entry.dev == OTHER,
    ),
    "route": Sort(
        entry_options.ROUTE,
        lambda kernel: [route for route in kernel.routes() if route.protocol != 2],
        sets(route_entries()),
        sets(route_entries(protocols=(PROTOCOL, PROTOCOL, 4, 111))),
        lambda entry: entry.protocol != PROTOCOL,
        device=None,
        more={"table": 254, "protocol": PROTOCOL},
    ),
}
every_sort = pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)


def start(kernel: Kernel, sort: Sort, entries: Entries) -> None:
    """Make the kernel hold exactly these entries of this sort."""
    kernel.apply(plan(entries, sort.observe(kernel)))
    assert set(sort.observe(kernel)) == set(entries)


def taken(sort: Sort, there: Entries, wanted: Entries) -> bool:
    """Whether somebody else's route stands in the place of a wanted one and says otherwise."""
    places = {entry.key: entry for entry in wanted}
    return any(
        sort.foreign(entry)
        and entry.key in places
        and entry._replace(protocol=PROTOCOL) != places[entry.key]
        for entry in there
        if isinstance(entry, Route)
    )


# --- properties -----------------------------------------------------------------------------------


@every_sort
@EXAMPLES
@given(data=st.data(), exclusive=st.booleans())
def test_observed_becomes_desired_and_nothing_foreign_is_touched(
    kernel: Kernel, sort: Sort, data: st.DataObject, exclusive: bool
) -> None:
    there, wanted = data.draw(sort.there), data.draw(sort.wanted)
    start(kernel, sort, there)
    compute = sort.compute(kernel, sort.ask(wanted, exclusive))
    if taken(sort, there, wanted):
        with pytest.raises(RouteTaken):
            kernel.converge(compute, check_mode=False)
        assert set(sort.observe(kernel)) == set(there)
        return
    planned = kernel.converge(compute, check_mode=True)
    assert set(sort.observe(kernel)) == set(there)
    done = kernel.converge(compute, check_mode=False)
    assert diff(done) == diff(planned)
    places = {entry.key for entry in wanted}
    stays = [
        entry
        for entry in there
        if entry.key not in places and (sort.foreign(entry) or not exclusive)
    ]
    assert set(sort.observe(kernel)) == {*wanted, *stays}
    assert set(outcome(done, there)) == {*wanted, *stays}
    assert compute() == ()


@every_sort
@EXAMPLES
@given(data=st.data())
def test_the_inverse_restores_what_was_there(
    kernel: Kernel, sort: Sort, data: st.DataObject
) -> None:
    there, wanted = data.draw(sort.there), data.draw(sort.wanted)
    start(kernel, sort, there)
    # All that is there may go: the inverse has to bring back others' entries too.
    changes = plan(wanted, sort.observe(kernel))
    kernel.apply(changes)
    assert set(sort.observe(kernel)) == set(wanted)
    kernel.apply(inverse(changes))
    assert set(sort.observe(kernel)) == set(there)


@every_sort
@EXAMPLES
@given(data=st.data())
def test_absent_removes_what_is_asked_for_and_ours(
    kernel: Kernel, sort: Sort, data: st.DataObject
) -> None:
    there, unwanted = data.draw(sort.there), data.draw(sort.wanted)
    start(kernel, sort, there)
    compute = sort.compute(kernel, sort.ask(unwanted, False, "absent"))
    kernel.converge(compute, check_mode=False)

    def fits(entry: t.Any, other: t.Any) -> bool:
        pairs = zip(entry, other)
        return all(b is None or a == b for a, b in pairs)

    left = {e for e in there if sort.foreign(e) or not any(fits(e, o) for o in unwanted)}
    assert set(sort.observe(kernel)) == left
    assert compute() == ()


REFUSED: dict[str, Entry] = {
    # Through a device that there is not, by its number: the kernel finds out.
    "fdb": Fdb(VTEP, "02:00:00:00:00:99", "172.30.1.12", via="99999"),
    # On a device that there is not: found out before.
    "neigh": Neigh("nothere0", "10.5.99.0", "02:00:00:00:00:99"),
    # By a gateway that nobody knows the way to.
    "route": Route("10.99.0.0/16", UNDERLAY, "192.0.2.1"),
}


@pytest.mark.parametrize("name", SORTS)
@EXAMPLES
@given(data=st.data())
def test_a_batch_with_a_refused_entry_leaves_the_kernel_as_it_was(
    kernel: Kernel, name: str, data: st.DataObject
) -> None:
    sort, refused = SORTS[name], REFUSED[name]
    there, wanted = data.draw(sort.there), data.draw(sort.wanted)
    start(kernel, sort, there)
    changes = list(plan(wanted, sort.observe(kernel)))
    changes.insert(data.draw(st.integers(0, len(changes))), Change(None, refused))
    with pytest.raises(KernelError) as failure:
        kernel.apply(tuple(changes))
    assert [change.after for change, _reason in failure.value.refused] == [refused]
    assert str(refused) in str(failure.value)
    assert set(sort.observe(kernel)) == set(there)


def test_what_one_step_refuses_takes_back_the_steps_before(kernel: Kernel) -> None:
    for sort in SORTS.values():
        start(kernel, sort, [])
    wanted = [
        Neigh(VTEP, "10.5.10.0", "02:00:00:00:00:01"),
        Fdb(VTEP, "02:00:00:00:00:01", "172.30.1.12"),
        Route("10.20.0.0/16", VTEP, "10.5.10.0", onlink=True),
        REFUSED["route"],
    ]
    with pytest.raises(KernelError, match="the 3 changes made before were taken back"):
        kernel.apply(plan(wanted, ()))
    assert [sort.observe(kernel) for sort in SORTS.values()] == [[], [], []]


# --- thousands ------------------------------------------------------------------------------------


def peers(count: int) -> list[Entry]:
    found: list[Entry] = []
    for n in range(count):
        high, low = n >> 8, n & 255
        mac = f"02:01:00:00:{high:02x}:{low:02x}"
        found.append(Neigh(VTEP, f"10.{64 + high}.{low}.0", mac))
        found.append(Fdb(VTEP, mac, f"172.31.{high}.{low}" if n else "172.30.1.12"))
        found.append(Route(f"10.{64 + high}.{low}.0/24", VTEP, f"10.{64 + high}.{low}.0", True))
    return found


def test_thousands_of_entries_are_a_few_batches(kernel: Kernel) -> None:
    for sort in SORTS.values():
        start(kernel, sort, [])

    def observe() -> Entries:
        return [entry for sort in SORTS.values() for entry in sort.observe(kernel)]

    wanted = peers(3000)
    assert len(kernel.converge(lambda: plan(wanted, observe()), check_mode=False)) == 9000
    assert set(observe()) == set(wanted)
    # One is refused: the 2000 routes that were purged in its batch come back.
    bad = [*peers(1000), REFUSED["route"]]
    with pytest.raises(
        KernelError, match=r"route 10\.99\.0\.0/16 .*2000 changes made before"
    ) as why:
        kernel.apply(plan(bad, observe()))
    assert len(why.value.refused) == 1
    assert set(observe()) == set(wanted)
    kept = peers(1000)
    assert len(kernel.converge(lambda: plan(kept, observe()), check_mode=False)) == 6000
    assert set(observe()) == set(kept)
    kernel.converge(lambda: plan((), observe()), check_mode=False)
    assert observe() == []


# --- the kernel's own tricks ----------------------------------------------------------------------


def test_what_the_kernel_acknowledges_without_doing_it_is_noticed(kernel: Kernel) -> None:
    start(kernel, SORTS["fdb"], [])
    one, two = (Fdb(VTEP, "02:00:00:00:00:01", f"172.30.1.{n}") for n in (12, 13))
    assert one.key == two.key
    # bridge-fdb appends this way. The kernel says yes, and keeps the one destination it has.
    index = {name: number for number, name in socket.if_nameindex()}
    first, second = (messages.encode(None, entry, index)[0] for entry in (one, two))
    append = second._replace(flags=netlink.CREATE | netlink.APPEND)
    with contextlib.closing(netlink.Netlink()) as talk:
        assert talk.batch([first, append]) == {}
    assert kernel.fdb(VTEP) == [one]

    def both() -> Changes:
        have = kernel.fdb(VTEP)
        return tuple(Change(None, entry) for entry in (one, two) if entry not in have)

    with pytest.raises(KernelError, match=r"acknowledged all 1 changes, but 1 objects are not"):
        kernel.converge(both, check_mode=False)


def test_a_route_that_somebody_made_since_we_looked_is_theirs(kernel: Kernel) -> None:
    theirs = Route("10.20.0.0/16", UNDERLAY, "172.30.1.12", protocol=4)
    ours = theirs._replace(gateway="172.30.1.13", protocol=PROTOCOL)
    start(kernel, SORTS["route"], [theirs])
    with pytest.raises(KernelError, match="EEXIST"):
        kernel.apply((Change(None, ours),))
    assert SORTS["route"].observe(kernel) == [theirs]


class InterruptedSocket:
    """A fake, for what a real kernel does too rarely for a test: it reports of the first dumps that
    its tables changed meanwhile (NLM_F_DUMP_INTR, or an error), and answers properly then."""

    _MULTI, _INTERRUPTED = 0x2, 0x10

    def __init__(self, answers: t.Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    def sendto(self, data: bytes, _address: tuple[int, int]) -> None:
        self._sequence = struct.unpack_from("=IHHII", data)[3]
        self.asked += 1

    def recv(self, _size: int) -> bytes:
        answer = self._answers.pop(0)
        if answer == "EBUSY":
            return self._message(2, 0, struct.pack("=i", -16) + bytes(16))
        flags = self._MULTI | (self._INTERRUPTED if answer == "interrupted" else 0)
        body = self._message(netlink.RTM_NEWROUTE, flags, answer.encode())
        return body + self._message(3, flags, struct.pack("=i", 0))

    def _message(self, kind: int, flags: int, body: bytes) -> bytes:
        size = len(body)
        header = struct.pack("=IHHII", 16 + size, kind, flags, self._sequence, 0)
        return header + body + bytes(-size & 3)

    def close(self) -> None:
        pass


def interrupted(answers: t.Sequence[str]) -> tuple[netlink.Netlink, InterruptedSocket]:
    talk = netlink.Netlink()
    talk.close()
    fake = InterruptedSocket(answers)
    talk._socket = fake  # type: ignore[assignment]
    return talk, fake


def test_an_interrupted_dump_is_read_again() -> None:
    talk, fake = interrupted(["interrupted", "EBUSY", "interrupted", "whole"])
    assert talk.dump(netlink.RTM_GETROUTE, b"") == [b"whole"]
    assert fake.asked == 4


def test_a_dump_that_is_always_interrupted_is_an_error() -> None:
    talk, _fake = interrupted(["interrupted"] * 100)
    with pytest.raises(netlink.NetlinkError, match="the kernel's tables changed during each of"):
        talk.dump(netlink.RTM_GETROUTE, b"")
