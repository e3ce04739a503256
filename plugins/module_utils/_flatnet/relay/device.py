# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the relay asks of the kernel: the TUN device's queues and the UDP sockets.

What makes the relay fast is probed at its start. Where the kernel lacks it, the relay works
without:

- frames of up to 64 KB from and to the device instead of packets (TUNSETOFFLOAD): TCP streams that
  are not cut into segments yet (TSO), UDP datagrams likewise (USO, from Linux 6.2), and checksums
  that are left to the sender;
- one sendmsg for many datagrams (UDP_SEGMENT, from 4.18);
- many datagrams in one recvmsg (UDP_GRO, from 5.0).

Numbers are those of ``linux/if_tun.h``, ``linux/udp.h`` and ``linux/in.h``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from typing import NamedTuple

from ..errors import FlatnetError

_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_TUN, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR = 0x1, 0x100, 0x1000, 0x4000
_CSUM, _TSO4, _TSO6, _TSO_ECN, _USO4, _USO6 = 0x1, 0x2, 0x4, 0x8, 0x20, 0x40
# From the best to none; the kernel takes USO for both versions of IP or not at all.
_OFFLOADS = (
    ("tso+uso", _CSUM | _TSO4 | _TSO_ECN | _TSO6 | _USO4 | _USO6),
    ("tso", _CSUM | _TSO4 | _TSO_ECN),
    ("checksum", _CSUM),
    ("none", 0),
)
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_MTU, _IP_FREEBIND = 10, 2, 14, 15
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=32xI")  # the ninth number: SK_MEMINFO_DROPS
_BUFFER = 8 << 20
VNET = 10  # bytes of struct virtio_net_hdr


class DeviceUnavailable(FlatnetError):
    """The TUN device or the address to listen on cannot be used."""


class PortTaken(DeviceUnavailable):
    """Another program listens on the port."""


class Queue(NamedTuple):
    """One queue of the device. ``offload`` is the best that the kernel can do, as named above.
    ``multiple``: the device can have several queues."""

    fileno: int
    offload: str
    multiple: bool

    @property
    def uso(self) -> bool:
        """Whether many UDP datagrams may be written at once."""
        return self.offload == "tso+uso"

    def ask_for_frames(self, wanted: bool) -> None:
        """Have the device give frames, as far as it can, or packets with their checksums."""
        bits = dict(_OFFLOADS)[self.offload if wanted else "none"]
        fcntl.ioctl(self.fileno, _TUNSETOFFLOAD, bits)


def attach(device: str) -> Queue:
    """Open a queue of a device that is there; it gives packets. Raises DeviceUnavailable."""
    try:
        socket.if_nametoindex(device)  # raises OSError; without the device, the ioctl would make it
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        missing = error.errno in (errno.ENODEV, errno.ENXIO) or not error.filename
        what = "there is no device %s" % device if missing else "/dev/net/tun: %s" % error.strerror
        raise DeviceUnavailable("%s; tun_relay and flatnet-sync make it" % what) from None
    try:
        multiple = _attach(descriptor, device)
        fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, struct.pack("=i", VNET))
        queue = Queue(descriptor, _probe(descriptor), multiple)
        queue.ask_for_frames(False)
        return queue
    except OSError as error:
        os.close(descriptor)
        hints = {
            errno.EPERM: "it belongs to another user",
            errno.EBUSY: "another process has it",
            errno.EINVAL: "it is not a TUN device with virtio headers",
        }
        raise DeviceUnavailable(
            "device %s: %s" % (device, hints.get(error.errno or 0, error.strerror))
        ) from None


def _attach(descriptor: int, device: str) -> bool:
    """Whether the device can have several queues."""
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    name = device.encode()
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name, flags | _IFF_MULTI_QUEUE))
        return True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name, flags))
    return False


def _probe(descriptor: int) -> str:
    for name, bits in _OFFLOADS:
        try:
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, bits)
        except OSError as error:
            if error.errno != errno.EINVAL or not bits:
                raise
        else:
            return name
    return "none"


class Socket(NamedTuple):
    """A bound UDP socket. ``gso``, ``gro``: it sends, receives many datagrams at once. ``buffer``:
    how many bytes may wait to be received."""

    udp: socket.socket
    gso: bool
    gro: bool
    buffer: int

    def dropped(self) -> int:
        """How many datagrams the kernel had no room for, modulo 2**32; 0 if it does not say."""
        try:
            found = self.udp.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            return int(_MEMINFO.unpack(found)[0])
        except (OSError, struct.error):
            return 0


def bind(address: str, port: int, beside: bool) -> socket.socket:
    """A socket of this address and port. The host need not have the address yet: so nobody else can
    get the port. ``beside``: other sockets of ours have it too. Raises DeviceUnavailable."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        # If a socket on the port does not share it, the kernel refuses all others, ours as well.
        share(udp, beside)
        udp.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        udp.bind((address, port))
    except OSError as error:
        udp.close()
        taken = error.errno == errno.EADDRINUSE
        kind = PortTaken if taken else DeviceUnavailable
        hint = "; 'ss -ulnp sport = :%d' as root shows who has it" % port if taken else ""
        raise kind("cannot listen on %s:%d: %s%s" % (address, port, error.strerror, hint)) from None
    return udp


def fits(udp: socket.socket, address: str, port: int) -> bool:
    """Whether it is a UDP socket of this address and port."""
    try:
        return (
            udp.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET
            and udp.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_UDP
            and udp.getsockname() == (address, port)
        )
    except OSError:
        return False


def share(udp: socket.socket, wanted: bool) -> None:
    """Let other sockets of ours have the same port, or not. Each gets some of what comes."""
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(wanted))


def check_address(address: str, port: int) -> None:
    """Raises DeviceUnavailable if this host does not have it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise DeviceUnavailable(
                "cannot listen on %s:%d: %s" % (address, port, error.strerror)
            ) from None


def prepare(udp: socket.socket, segments: bool = True) -> Socket:
    """Set up a bound socket for a worker, even if another worker has had it. Outer packets carry
    DF, so that the underlay says when they are too big."""
    udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
    for option, force in (
        (socket.SO_RCVBUF, _SO_RCVBUFFORCE),
        (socket.SO_SNDBUF, _SO_SNDBUFFORCE),
    ):
        try:
            udp.setsockopt(socket.SOL_SOCKET, force, _BUFFER)
        except OSError:  # not root: up to net.core.rmem_max
            udp.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    gso = segments and _takes(udp, UDP_SEGMENT, 0)
    gro = segments and _takes(udp, UDP_GRO, 1)
    # The kernel doubles it for its own bookkeeping.
    size = udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    return Socket(udp, gso, gro, size)


def _takes(udp: socket.socket, option: int, value: int) -> bool:
    try:
        udp.setsockopt(SOL_UDP, option, value)
    except OSError:
        return False
    return True


def path_mtu(local: str, peer: tuple[str, int]) -> int | None:
    """The largest IP packet, in bytes, that fits on the way to a peer, as far as the kernel
    knows."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((local, 0))
        probe.connect(peer)
        return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    return None
