"""The answer to `Question.TRACE`: apart, because OpenSSL behind it is slow to import."""

from __future__ import annotations

import msgspec

from troth.connect.findings import Cause
from troth.connect.traced import Trace


class TraceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A handshake that was made, and what explains it as far as this node knows."""

    trace: Trace
    cause: Cause | None = None
