# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An independent peer of flannel's udp backend: one packet a read, one packet a write, no offload.

    python3 flannel_peer.py DEVICE LISTEN PORT [SUBNET=ADDRESS …]

Made from the format's description alone, as what the relay is compared with: it shares no
code with the relay or with the tests. DEVICE is a TUN device that exists; a datagram is one IPv4
packet; the TTL is decremented on the way out and on the way in. Like flannel's, it checks nothing
of what peers send.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import selectors
import socket
import struct
import sys

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2


def attach(device: str) -> int:
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN_NO_PI))
    return tun


def decremented(packet: bytearray) -> bool:
    """Take one from the TTL; whether any is left."""
    if packet[8] <= 1:
        return False
    # The change of one word, not a new sum: a wrong checksum stays wrong (RFC 1624, 4).
    old = packet[8] << 8 | packet[9]
    packet[8] -= 1
    new = packet[8] << 8 | packet[9]
    (field,) = struct.unpack_from("!H", packet, 10)
    total = (field ^ 0xFFFF) + (old ^ 0xFFFF) + new
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", packet, 10, total ^ 0xFFFF)
    return True


def main() -> None:
    device, listen, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    table = [
        (ipaddress.IPv4Network(subnet), (address, port))
        for subnet, address in (each.split("=") for each in sys.argv[4:])
    ]
    tun = attach(device)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    # Its buffers are the system's otherwise, and whoever compares wants no loss for want of them.
    udp.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    udp.bind((listen, port))
    udp.setblocking(False)
    chosen = selectors.DefaultSelector()
    chosen.register(tun, selectors.EVENT_READ)
    chosen.register(udp, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, dummy in chosen.select():
            try:
                if key.fileobj is tun:
                    packet = bytearray(os.read(tun, 65536))
                    if len(packet) < 20 or packet[0] >> 4 != 4:
                        continue
                    destination = ipaddress.IPv4Address(bytes(packet[16:20]))
                    hops = [hop for subnet, hop in table if destination in subnet]
                    if hops and decremented(packet):
                        udp.sendto(packet, hops[0])
                else:
                    packet = bytearray(udp.recv(65536))
                    if len(packet) >= 20 and decremented(packet):
                        os.write(tun, packet)
            except OSError as error:
                # One packet's trouble: too big for the path, refused by the device.
                print(error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
