"""Opens echo connections all at once and keeps them till all are served: ``burst.py HOST PORT N``.

Says as JSON how many were served, and what became of the others.
"""

from __future__ import annotations

import asyncio
import json
import sys


async def main(host: str, port: int, count: int) -> None:
    """Open them, and close them when there is nothing to wait for any more."""
    kept = []

    async def one() -> str:
        try:
            reader, writer = await asyncio.open_connection(host, port)
            kept.append(writer)
            writer.write(b"x")
            return "" if await reader.read(1) == b"x" else "closed"
        except OSError as error:
            return str(error)

    answers = await asyncio.gather(*(one() for _ in range(count)))
    wrong = [answer for answer in answers if answer]
    sys.stdout.write(json.dumps({"served": count - len(wrong), "wrong": sorted(set(wrong))}) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
