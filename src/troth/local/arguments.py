"""The arguments of requests that take more than a name, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from troth.dial.connect import http_get
from troth.errors import InputError, Problem
from troth.mesh.connections import Connection

if TYPE_CHECKING:
    from collections.abc import Mapping


class RouteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A way to look at.

    Attributes:
        source: The pod (or Deployment) that connects, ``NAMESPACE/NAME``.
        destination: As for `find_target`, as is ``port``.
    """

    source: str
    destination: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class _TalkRequest(RouteRequest, frozen=True, kw_only=True):
    """A connection to make.

    Attributes:
        payload: What to say first; None sends a GET of ``/``.
        timeout: Seconds to wait for an answer.
    """

    payload: str | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0, le=600)] = 5.0

    @property
    def first_words(self) -> bytes:
        """The payload as bytes."""
        if self.payload is not None:
            return self.payload.encode()
        return http_get(".".join(reversed(self.destination.split("/"))))


class ConnectRequest(_TalkRequest, frozen=True, kw_only=True):
    """A connection to make from a pod as its own processes would.

    Attributes:
        uncaptured: Make it past the pod's proxy, as a pod outside the mesh would.
    """

    uncaptured: bool = False


class TraceRequest(_TalkRequest, frozen=True, kw_only=True):
    """A handshake to trace from a pod to another's tunnel port.

    Attributes:
        credentials: What the client shows, as `troth.trace.Credentials` has it.
        claim: The pod (or Deployment) whose identity a forged certificate claims; by default the
            source's.
    """

    credentials: Literal["own", "none", "expired", "foreign-ca"] = "own"
    claim: str | None = None


class CauseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A connection, as a proxy has reported it, to explain."""

    connection: Connection


class WhyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Refusals to explain.

    Attributes:
        about: The one workload, pod or service to speak of, ``NAMESPACE/NAME``.
        count: How many to explain at most.
    """

    about: str | None = None
    count: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10


class AuditRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Connections to look at.

    Attributes:
        seconds: Those that began this long ago or later; at most a week.
    """

    seconds: Annotated[float, msgspec.Meta(gt=0, le=7 * 24 * 3600)] = 3600


class StopRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the mesh.

    Attributes:
        grace: Seconds that pods may take to end, if less than their own grace periods.
    """

    grace: Annotated[float, msgspec.Meta(ge=0)] | None = None


T = TypeVar("T", bound=msgspec.Struct)


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
