"""Keeps silent connections open: ``silent.py PORT COUNT ADDRESS ...``, so many to each address.

Those that are closed are opened again. Says as JSON how many were open at most at a time to each
address so far: when there is one to each, and again for each line of its input; ends with it.
"""

from __future__ import annotations

import asyncio
import json
import sys


class Flood:
    """The connections to one address."""

    def __init__(self, address: str, port: int, count: int) -> None:
        self._address, self._port = address, port
        self._open = 0
        self.most = 0
        self.begun = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._keep()) for _ in range(count)]

    async def _keep(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(self._address, self._port)
            except OSError:
                await asyncio.sleep(1)
                continue
            self._open += 1
            self.most = max(self.most, self._open)
            self.begun.set()
            try:
                await reader.read()
            except OSError:
                pass
            finally:
                self._open -= 1
                writer.close()


async def main(port: int, count: int, addresses: list[str]) -> None:
    """Go on until the input ends."""
    floods = [Flood(address, port, count) for address in addresses]
    await asyncio.gather(*(flood.begun.wait() for flood in floods))
    loop = asyncio.get_running_loop()
    while True:
        sys.stdout.write(json.dumps([flood.most for flood in floods]) + "\n")
        sys.stdout.flush()
        if not await loop.run_in_executor(None, sys.stdin.readline):
            return


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
