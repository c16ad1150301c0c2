"""What the demonstration found, as values with a stable JSON form."""

from __future__ import annotations

from typing import Literal

import msgspec

from troth.connect.traced import Credentials
from troth.demo.scenario import Happened
from troth.handshake.steps import TraceReport
from troth.traffic.connection import Connection


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that was applied.

    Attributes:
        file: Its path below ``examples``.
        manifest: Its text.
    """

    file: str
    manifest: str


class TryReport(msgspec.Struct, frozen=True, kw_only=True):
    """One connection: what was tried, what should have happened and what did.

    Attributes:
        credentials: What was shown to the tunnel port itself; None for an ordinary request.
        claim: Whose identity a forged certificate claimed.
        happened: What became of it, by what the client saw and what the server's proxy reports.
        detail: The same in words.
        differs: How that differs from what should have been; empty when it doesn't.
        event: What the proxy reports about this very connection: the mode, the policy that
            decided, the verified identity, the reason.
        ok: It came out as it should.
    """

    source: str
    destination: str
    port: int
    credentials: Credentials | None
    claim: str | None
    expected: Happened
    happened: Happened
    detail: str
    differs: tuple[str, ...]
    event: Connection | None
    ok: bool


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """One step; ``policy`` is None for a step without a policy."""

    number: int
    title: str
    says: str
    policy: Policy | None
    tries: tuple[TryReport, ...]
    ok: bool


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole demonstration; ``troth demo -o json`` prints exactly this.

    Attributes:
        ok: Everything came out as it should.
        handshake: The traced connection.
    """

    schema: Literal["troth/demo/v1"] = "troth/demo/v1"
    ok: bool
    steps: tuple[StepReport, ...]
    handshake: TraceReport
