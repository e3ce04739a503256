# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""rtnetlink in batches, from the standard library alone.

pyroute2 makes and parses every message attribute by attribute, which takes seconds for thousands of
peers. The four objects that a peer consists of (address, neighbour, FDB entry, route) have a fixed
shape, so they are packed and unpacked here directly. So a host can also be observed before pyroute2
is installed. Layouts are those of ``linux/rtnetlink.h``, ``linux/neighbour.h`` and
``linux/if_addr.h``; numbers are in the host's byte order unless said otherwise.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import FlatnetError

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

REPLACE, EXCL, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800  # NLM_F_* of a NEW request
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_DUMP_INTR, _ACK_TLVS = 0x10, 0x200
_NLMSG_ERROR, _NLMSG_DONE = 2, 3

SOL_NETLINK = 270
_CAP_ACK, _EXT_ACK, _STRICT_CHECK = 10, 11, 12
_SO_RCVBUFFORCE = 33

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_INT = struct.Struct("=i")

# One send: few enough that even if every message fails, all errors fit into the receive buffer.
_CHUNK = 500
_RECEIVE_BUFFER = 4 << 20
_DUMP_TRIES = 20


class NetlinkError(FlatnetError):
    """Talking to the kernel failed as such (no socket, dump never consistent)."""


class Message(NamedTuple):
    """A request without its header."""

    type: int
    flags: int
    body: bytes


class Refusal(NamedTuple):
    """Why a request was not carried out: the kernel's answer. If nobody asked the kernel, ``errno``
    is 0, and ``text`` the whole reason."""

    errno: int
    text: str

    @property
    def needs_root(self) -> bool:
        """Whether rights are missing."""
        return self.errno == errno.EPERM

    def __str__(self) -> str:
        if not self.errno:
            return self.text
        name = errno.errorcode.get(self.errno, str(self.errno))
        words = "%s (%s)" % (os.strerror(self.errno), name)
        return "%s: %s" % (words, self.text) if self.text else words


class Netlink:
    """A NETLINK_ROUTE socket in the caller's network namespace."""

    def __init__(self) -> None:
        self._socket = open_socket(_RECEIVE_BUFFER)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def batch(self, messages: Sequence[Message]) -> dict[int, Refusal]:
        """Send all of ``messages`` in a few system calls; {index in the list: refusal}.

        The kernel works through a datagram message by message, and goes on after an error. It
        always reports errors, but success only if asked. So only the last message of a datagram
        asks, and the answer to it says that all before it are done.
        """
        refused: dict[int, Refusal] = {}
        for start in range(0, len(messages), _CHUNK):
            chunk = messages[start : start + _CHUNK]
            first = self._sequence + 1
            self._sequence += len(chunk)
            parts: list[bytes] = []
            for sequence, (kind, flags, body) in enumerate(chunk, first):
                more = _REQUEST | _ACK if sequence == self._sequence else _REQUEST
                parts.append(_HEADER.pack(16 + len(body), kind, flags | more, sequence, 0))
                parts.append(body)
            self._send(b"".join(parts))
            waiting = True
            while waiting:
                for kind, flags, sequence, body in self._receive():
                    if kind != _NLMSG_ERROR or not first <= sequence <= self._sequence:
                        continue
                    code = -_INT.unpack_from(body)[0]
                    if code:
                        refused[start + sequence - first] = Refusal(code, _reason(flags, body))
                    if sequence == self._sequence:
                        waiting = False
        return refused

    def get(self, kind: int, body: bytes) -> bytes | None:
        """The body of the one object that the request names; None if there is none."""
        self._sequence += 1
        self._send(_HEADER.pack(16 + len(body), kind, _REQUEST, self._sequence, 0) + body)
        while True:
            for answer, flags, sequence, content in self._receive():
                if sequence != self._sequence:
                    continue
                if answer != _NLMSG_ERROR:
                    return content
                refusal = Refusal(-_INT.unpack_from(content)[0], _reason(flags, content))
                if refusal.errno == errno.ENODEV:
                    return None
                raise NetlinkError("the kernel refused to show an object: %s" % (refusal,))

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all objects of a kind; retried while the kernel changes under the dump."""
        for dummy in range(_DUMP_TRIES):
            bodies = self._dump_once(kind, body)
            if bodies is not None:
                return bodies
        raise NetlinkError(
            "the kernel's tables changed during each of %d reads; look for a program on this host "
            "that rewrites them all the time" % _DUMP_TRIES
        )

    def _dump_once(self, kind: int, body: bytes) -> list[bytes] | None:
        self._sequence += 1
        header = _HEADER.pack(16 + len(body), kind, _REQUEST | _DUMP, self._sequence, 0)
        self._send(header + body)
        bodies: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, sequence, content in self._receive():
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(flags & _DUMP_INTR)
                if kind == _NLMSG_DONE:
                    return None if interrupted else bodies
                if kind == _NLMSG_ERROR:
                    refusal = Refusal(-_INT.unpack_from(content)[0], _reason(flags, content))
                    if refusal.errno in (errno.EINTR, errno.EBUSY):
                        return None
                    raise NetlinkError("the kernel refused to list its objects: %s" % (refusal,))
                bodies.append(content)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, (0, 0))
        except OSError as error:
            raise NetlinkError("cannot send to the kernel over netlink: %s" % error) from None

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            data = self._socket.recv(1 << 17)
        except OSError as error:
            raise NetlinkError("cannot read from the kernel over netlink: %s" % error) from None
        return split(data)


def open_socket(receive_buffer: int) -> socket.socket:
    """A NETLINK_ROUTE socket; ``receive_buffer`` in bytes, less if not root."""
    try:
        opened = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        opened.bind((0, 0))
    except OSError as error:
        raise NetlinkError("cannot open a netlink socket: %s" % error) from None
    # Strict checking makes the kernel filter dumps; without it (before 4.20) callers filter.
    for option in (_CAP_ACK, _EXT_ACK, _STRICT_CHECK):
        _try_option(opened, SOL_NETLINK, option, 1)
    if not _try_option(opened, socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer):
        _try_option(opened, socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    return opened


def _try_option(opened: socket.socket, level: int, option: int, value: int) -> bool:
    try:
        opened.setsockopt(level, option, value)
    except OSError:  # an older kernel, or not root: everything works without
        return False
    return True


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages of a datagram: type, flags, sequence number, body."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, dummy = _HEADER.unpack_from(data, offset)
        if length < 16:
            break
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += length + 3 & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """A type-length-value, padded to four bytes."""
    size = len(value)
    return _ATTRIBUTE.pack(size + 4, kind) + value + b"\0" * (-size & 3)


def attributes(data: bytes, offset: int) -> dict[int, bytes]:
    """The attributes that follow ``offset``, by type."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + size]
        offset += size + 3 & ~3
    return found


def _reason(flags: int, body: bytes) -> str:
    """The kernel's own words (NLMSGERR_ATTR_MSG) behind an error; CAP_ACK cut the request off."""
    if not flags & _ACK_TLVS:
        return ""
    return attributes(body, 20).get(1, b"").rstrip(b"\0").decode("utf-8", "replace")


def by_name() -> dict[str, int]:
    """The index of each device."""
    return {name: index for index, name in socket.if_nameindex()}


def by_index() -> dict[int, str]:
    """The name of each device."""
    return dict(socket.if_nameindex())
