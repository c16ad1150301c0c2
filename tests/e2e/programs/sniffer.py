"""Keeps every packet of every interface here until standard input has something to look for.

Then the output is how many bytes were seen, and each line of the input that was in a packet.
"""

from __future__ import annotations

import select
import socket
import sys

_ALL_PROTOCOLS = 0x0003  # linux/if_ether.h: ETH_P_ALL

with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)) as wire:
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    packets: list[bytes] = []
    while True:
        readable, _, _ = select.select([wire, sys.stdin], [], [])
        if wire in readable:
            packets.append(wire.recv(65536))
        elif sys.stdin in readable:
            break

texts = sys.stdin.read().splitlines()
sys.stdout.write(f"{sum(map(len, packets))}\n")
for text in texts:
    if any(text.encode() in packet for packet in packets):
        sys.stdout.write(f"{text}\n")
