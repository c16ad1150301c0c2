"""Sends a word to port 8080 of every pod of some nodes, from before the pod is there.

``knocker.py WORD ADDRESS...``: each address is that which a node gives to its next pod; the one
after it goes to the pod after that, and so on. So it knocks at some doors behind the last that is
there. Where somebody comes it knocks often at first, since that is when a door may be open, and
then now and then.
"""

from __future__ import annotations

import errno
import heapq
import ipaddress
import selectors
import socket
import sys
import time

PORT = 8080
AHEAD = 24
PATIENCE_SECONDS = 1.0
FIRST_SECONDS = 20.0
OFTEN_SECONDS = 0.05
SELDOM_SECONDS = 1.0

ABSENT = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT})


class Street:
    """A node's addresses, in the order in which pods get them."""

    def __init__(self, first: str) -> None:
        network = ipaddress.ip_network(f"{first}/24", strict=False)
        _, *self._hosts = map(str, network.hosts())  # the first one is the node's own
        self._first = self._hosts.index(first)
        self.known = -1
        """The last number where somebody has been seen."""
        self.watched = 0

    def address(self, number: int) -> str:
        return self._hosts[(self._first + number) % len(self._hosts)]


class Door:
    """An address, and since when somebody is there."""

    def __init__(self, street: Street, number: int) -> None:
        self.address = street.address(number)
        self.street = street
        self.number = number
        self.since: float | None = None
        self.socket: socket.socket | None = None

    def note(self, error: int, now: float) -> float | None:
        """Take what came of a knock; when to knock again, if at all."""
        if error not in ABSENT:
            self.since = self.since or now
            self.street.known = max(self.street.known, self.number)
        elif self.number < self.street.known - AHEAD:
            return None  # whoever was there has gone
        else:
            self.since = None
        early = self.since is None or now < self.since + FIRST_SECONDS
        return now + (OFTEN_SECONDS if early else SELDOM_SECONDS)


class Knocker:
    """Whoever goes from door to door."""

    def __init__(self, word: bytes, firsts: list[str]) -> None:
        self._word = word
        self._streets = [Street(first) for first in firsts]
        self._waiting = selectors.EpollSelector()
        # By time; the counter keeps doors from being compared.
        self._due: list[tuple[float, int, Door]] = []
        self._ends: list[tuple[float, int, Door, socket.socket]] = []
        self._count = 0

    def go_round(self) -> None:
        now = time.monotonic()
        for street in self._streets:
            while street.watched <= street.known + AHEAD:
                self._push(now, Door(street, street.watched))
                street.watched += 1
        while self._due and self._due[0][0] <= now:
            self._knock(heapq.heappop(self._due)[2], now)
        for key, _ in self._waiting.select(0.01):
            self._answered(key.data)
        now = time.monotonic()
        while self._ends and self._ends[0][0] <= now:
            _, _, door, knocking = heapq.heappop(self._ends)
            if door.socket is knocking:
                self._finish(door, errno.ETIMEDOUT)

    def _push(self, when: float, door: Door) -> None:
        self._count += 1
        heapq.heappush(self._due, (when, self._count, door))

    def _knock(self, door: Door, now: float) -> None:
        door.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._waiting.register(door.socket, selectors.EVENT_WRITE, door)
        error = door.socket.connect_ex((door.address, PORT))
        if error not in {0, errno.EINPROGRESS}:
            self._finish(door, error)
            return
        self._count += 1
        heapq.heappush(self._ends, (now + PATIENCE_SECONDS, self._count, door, door.socket))

    def _answered(self, door: Door) -> None:
        assert door.socket is not None
        error = door.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not error:
            try:
                door.socket.send(self._word)
            except OSError as problem:
                error = problem.errno or errno.EIO
        self._finish(door, error)

    def _finish(self, door: Door, error: int) -> None:
        assert door.socket is not None
        self._waiting.unregister(door.socket)
        door.socket.close()
        door.socket = None
        again = door.note(error, time.monotonic())
        if again is not None:
            self._push(again, door)


knocker = Knocker(sys.argv[1].encode(), sys.argv[2:])
while True:
    knocker.go_round()
