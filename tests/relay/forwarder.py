# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A way between two peers that loses, repeats, reorders and spoils datagrams.

    python3 forwarder.py ADDRESS PORT ONE OTHER [loss=P] [twice=P] [late=P] [spoil=P] [seed=N]

Each of the two has ADDRESS in its table in place of the other. Probabilities are of a datagram.
``late`` keeps one back until a few others have passed. ``spoil`` turns over one bit behind the
inner IP header; the datagram's own checksum is right again then, as if a peer had sent it so.
"""

from __future__ import annotations

import random
import socket
import sys

# More than the parts of the longest packet that is sent this way.
_APART = 3


def main() -> None:
    address, port, one, other = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    chances = {"loss": 0.0, "twice": 0.0, "late": 0.0, "spoil": 0.0, "seed": 0.0}
    chances.update((name, float(value)) for name, value in (w.split("=") for w in sys.argv[5:]))
    chance = random.Random(chances.pop("seed"))
    loss, twice, late, spoil = (chances[name] for name in ("loss", "twice", "late", "spoil"))
    to = {one: (other, port), other: (one, port)}
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
    udp.bind((address, port))
    # The device takes no large sends that are cut later, nor does the buffer run full silently.
    kept: list[tuple[int, bytes, tuple[str, int]]] = []
    passed = spoilt = 0
    print("ready", flush=True)
    while True:
        udp.settimeout(0.005 if kept else None)
        try:
            data, source = udp.recvfrom(65536)
        except TimeoutError:
            data = b""
        if data and source[0] in to:
            target = to[source[0]]
            passed += 1
            if chance.random() < loss:
                continue
            # One part of a packet at most: two bits of it can make up for each other in its sum.
            if spoil and len(data) > 24 and passed - spoilt > _APART and chance.random() < spoil:
                spoilt = passed
                changed = bytearray(data)
                changed[chance.randrange(20, len(data))] ^= 1 << chance.randrange(8)
                data = bytes(changed)
            if late and chance.random() < late:
                kept.append((passed + chance.randrange(1, 12), data, target))
                continue
            for dummy in range(2 if twice and chance.random() < twice else 1):
                send(udp, data, target)
        due = [each for each in kept if each[0] <= passed or not data]
        kept = [each for each in kept if each not in due]
        for dummy, data, target in due:
            send(udp, data, target)


def send(udp: socket.socket, data: bytes, target: tuple[str, int]) -> None:
    try:
        udp.sendto(data, target)
    except OSError as error:
        print(error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
