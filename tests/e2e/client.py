"""A client in a pod: makes the connections that a test asks for and says what came of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
from tests.e2e.harness import PYTHON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.e2e.harness import Mesh

PROGRAMS = Path(__file__).with_name("programs")


class Reply(msgspec.Struct, frozen=True):
    """What came of one connection.

    Attributes:
        body: The answer, or None when there was none.
        error: Why not.
        port: The client's own port.
    """

    body: str | None = None
    error: str = ""
    port: int = 0

    @property
    def cut(self) -> bool:
        """Whether the other side ended it at once, as one does that refuses."""
        return self.error.startswith(("Connection", "SSL"))


class Certificate(msgspec.Struct, frozen=True):
    """Files of a client certificate's chain and key, in PEM."""

    certificate: str
    key: str


class Client:
    """A client process in pod ``pod`` of ``mesh``, for as long as the context lasts."""

    def __init__(self, mesh: Mesh, pod: str) -> None:
        self.pod = pod
        self._mesh = mesh

    def __enter__(self) -> Self:
        self._process = self._mesh.start(
            self.pod,
            *(PYTHON, "-I", str(PROGRAMS / "connector.py")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def get(self, host: str, port: int, path: str = "/", *, seconds: float = 5.0) -> Reply:
        """Make an HTTP request in plaintext."""
        return self._reply("get", host=host, port=port, path=path, seconds=seconds)

    def tls(
        self,
        host: str,
        port: int,
        *,
        name: str | None = None,
        certificate: Certificate | None = None,
        alpn: Sequence[str] = (),
    ) -> Reply:
        """Make an HTTP request over TLS, believing any server.

        Args:
            host: Where to.
            port: The TCP port there.
            name: The server name to ask for.
            certificate: What to show when asked to.
            alpn: Application protocols to offer.
        """
        files = msgspec.to_builtins(certificate) if certificate else {}
        return self._reply("tls", host=host, port=port, path="/", files=files, name=name, alpn=alpn)

    def udp(self, host: str, port: int, text: str) -> Reply:
        """Send a datagram and wait for its answer."""
        return self._reply("udp", host=host, port=port, text=text)

    def streams(self, host: str, port: int, count: int = 1) -> Streams:
        """Open echo connections that are used all the time."""
        answer = self.call("stream", host=host, port=port, count=count)
        return Streams(self, answer["streams"])

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Have the process do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": operation, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _reply(self, operation: str, **arguments: Any) -> Reply:
        return msgspec.convert(self.call(operation, **arguments), Reply)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the client in {self.pod} has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


class Streams:
    """Connections of a client that send and get something back all the time."""

    def __init__(self, client: Client, numbers: list[int]) -> None:
        self._client = client
        self._numbers = numbers

    @property
    def rounds(self) -> list[int]:
        """How often each has got back what it sent."""
        rounds: list[int] = self._client.call("rounds", streams=self._numbers)["rounds"]
        return rounds

    def errors(self, *, within: float = 0.0) -> list[str]:
        """What ended each, empty for those that go on; waits until all have ended, or not longer.

        Args:
            within: For how many seconds to wait.
        """
        answer = self._client.call("ended", streams=self._numbers, seconds=within)
        errors: list[str] = answer["errors"]
        return errors

    def stop(self) -> list[str]:
        """End them; what had ended each before, empty for those that were well."""
        errors: list[str] = self._client.call("stop", streams=self._numbers)["errors"]
        return errors
