"""Calls ``HOST PORT`` by new connections, several at a time, until standard input ends.

Each call connects, asks, and reads the answer to its end. A line of standard input is answered
after some more of them. Printed in the end are how many there were, and the ones that came to
nothing, each with the time at which it began.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

CALLERS = 4
SOME = 20
PAUSE_SECONDS = 0.005
PATIENCE_SECONDS = 10.0

stop = threading.Event()
failed: list[tuple[float, str]] = []
counts = [0] * CALLERS


def ask(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ConnectionAbortedError(f"closed after {answer!r}")


def keep_calling(index: int, host: str, port: int) -> None:
    while not stop.wait(PAUSE_SECONDS):
        began = time.time()
        try:
            ask(host, port)
        except OSError as error:
            failed.append((began, f"{error!r} after {time.time() - began:.3f} s"))
        counts[index] += 1


threads = [
    threading.Thread(target=keep_calling, args=(index, sys.argv[1], int(sys.argv[2])))
    for index in range(CALLERS)
]
for thread in threads:
    thread.start()
for _ in sys.stdin:
    before = sum(counts)
    while sum(counts) < before + SOME:
        time.sleep(PAUSE_SECONDS)
    sys.stdout.write("going on\n")
    sys.stdout.flush()
stop.set()
for thread in threads:
    thread.join()
sys.stdout.write(json.dumps({"failed": failed, "count": sum(counts)}))
