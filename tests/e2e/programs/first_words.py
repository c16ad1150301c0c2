"""Says the first words of everybody who connects to port 8080, and has some for others itself.

``first_words.py WORDS [ADDRESS...]`` sends its words to port 8080 of each address before it does
anything else, until they have come back once. Its output has a line ``heard WORDS`` for each of
the words that it hears the first time, which it sends back, ``answered ADDRESS``, and for each
way in which a connection of its own has failed ``failed ADDRESS: REASON``, once.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

PORT = 8080
PATIENCE_SECONDS = 5.0
PAUSE_SECONDS = 0.05

said: set[str] = set()


def say(line: str) -> None:
    if line not in said:
        said.add(line)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def ask(address: str, words: bytes) -> None:
    while True:
        try:
            with socket.create_connection((address, PORT), timeout=PATIENCE_SECONDS) as connection:
                connection.sendall(words)
                if connection.recv(100) != words:
                    raise ConnectionError("no answer")
        except OSError as error:
            say(f"failed {address}: {error}")
            time.sleep(PAUSE_SECONDS)
        else:
            say(f"answered {address}")
            return


def answer(connection: socket.socket) -> None:
    with connection:
        try:
            words = connection.recv(100)
            if words:
                say(f"heard {words.decode()}")
                connection.sendall(words)
        except OSError:
            pass  # the client's affair


for address in sys.argv[2:]:
    threading.Thread(target=ask, args=(address, sys.argv[1].encode())).start()
listener = socket.create_server(("", PORT), backlog=500)
while True:
    threading.Thread(target=answer, args=listener.accept()[:1]).start()
