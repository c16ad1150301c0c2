"""Sends requests to a URL until standard input ends, a few at least, and says what went wrong.

Most requests have a connection of their own; besides there is one that stays open from request to
request, and is made anew only when the server has said that it closes it.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time

FEW = 20
PAUSE_SECONDS = 0.01
PATIENCE_SECONDS = 5.0

stop = threading.Event()
failed: list[str] = []
counts = [0, 0]


def fetch(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    if answer.status != http.HTTPStatus.OK:
        raise http.client.HTTPException(str(answer.status))


def keep_requesting(index: int, host: str, port: int, *, keep_open: bool) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
    while counts[index] < FEW or not stop.is_set():
        began = time.time()
        try:
            fetch(connection)
            if not keep_open:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            failed.append(
                f"{'kept' if keep_open else 'new'} connection at {began:.3f} after"
                f" {time.time() - began:.3f} s: {error!r}"
            )
        counts[index] += 1
        time.sleep(PAUSE_SECONDS)


host, _, port = sys.argv[1].partition(":")
threads = [
    threading.Thread(target=keep_requesting, args=(index, host, int(port or 80)), kwargs=kind)
    for index, kind in enumerate(({"keep_open": False}, {"keep_open": True}))
]
for thread in threads:
    thread.start()
sys.stdout.write("begun\n")
sys.stdout.flush()
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
sys.stdout.write(json.dumps({"failed": failed, "count": min(counts)}))
