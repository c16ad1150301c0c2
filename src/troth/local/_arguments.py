"""The arguments of requests that take more than a name, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from troth.errors import InputError, Problem
from troth.local._connect import http_get

if TYPE_CHECKING:
    from collections.abc import Mapping


class ConnectRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A connection to make from a pod.

    Attributes:
        source: The pod (or Deployment) that connects, ``NAMESPACE/NAME``.
        destination: As for `find_target`, as is ``port``.
        payload: What to say first; None sends a GET of ``/``.
        timeout: Seconds to wait for an answer.
    """

    source: str
    destination: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    payload: str | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0, le=600)] = 5.0

    @property
    def first_words(self) -> bytes:
        """The payload as bytes."""
        if self.payload is not None:
            return self.payload.encode()
        return http_get(".".join(reversed(self.destination.split("/"))))


class TraceRequest(ConnectRequest, frozen=True, kw_only=True):
    """A handshake to trace from a pod to another's tunnel port.

    Attributes:
        credentials: What the client shows, as `troth.trace.Credentials` has it.
        claim: The pod (or Deployment) whose identity a forged certificate claims; by default the
            source's.
    """

    credentials: Literal["own", "none", "expired", "foreign-ca"] = "own"
    claim: str | None = None


T = TypeVar("T", bound=ConnectRequest)


def checked(request: Mapping[str, Any], kind: type[T]) -> T:
    """Read a request's arguments.

    Raises:
        InputError: They are not what the request takes.
    """
    try:
        return msgspec.convert(request, kind)
    except msgspec.ValidationError as error:
        problem = Problem(
            subject=f"request {request['op']}",
            path="",
            found=str(error),
            wanted=f"give {', '.join(kind.__struct_fields__)}",
        )
        raise InputError([problem]) from error
