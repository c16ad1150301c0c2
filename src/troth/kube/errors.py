"""How a request to the Kubernetes API can fail, in troth's words."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
from lightkube import ConfigError

from troth.errors import EnvironmentLackError, PeerError
from troth.kube.wire import decode

if TYPE_CHECKING:
    from troth.errors import TrothError
    from troth.kube.resource import Resource

_LONGEST_MESSAGE = 400
_LONGEST_RETRY_AFTER = 60.0


class RefusedError(PeerError):
    """The API server answered a request with an error.

    Attributes:
        retry_after: Seconds to wait before retrying (``Retry-After``).
    """

    retry_after = 0.0


class NotFoundError(RefusedError):
    """There is no such object (``404``), or its namespace is gone or being deleted."""


class ConflictError(RefusedError):
    """The object has changed meanwhile, or exists already (``409``)."""


class InvalidError(RefusedError):
    """The object, or the change of it, is invalid (``422``).

    Attributes:
        fields: The paths of the fields that are wrong, as far as the server names them.
    """

    fields: frozenset[str] = frozenset()


class DeniedError(RefusedError):
    """An admission webhook or policy of the cluster's doesn't let the request through.

    They answer with any code that they like, ``403`` and ``422`` among them.
    """


class ExpiredError(RefusedError):
    """The server no longer has the events since the version (``410``)."""


class BusyError(RefusedError):
    """Not now (``429``): the server has too much to do, or an eviction would disrupt too much."""


class ForbiddenError(EnvironmentLackError):
    """The permission is missing (``403``)."""


class NotServedError(EnvironmentLackError):
    """The server doesn't serve the kind."""


_BY_CODE: dict[int, type[RefusedError]] = {
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.CONFLICT: ConflictError,
    HTTPStatus.GONE: ExpiredError,
    HTTPStatus.TOO_MANY_REQUESTS: BusyError,
    HTTPStatus.UNPROCESSABLE_ENTITY: InvalidError,
}


_DENIED = re.compile(
    r"(admission webhook|ValidatingAdmissionPolicy) .+ denied (the )?request", re.DOTALL
)
"""How the API server begins what it says of a request that admission refused."""


class _Cause(msgspec.Struct, frozen=True):
    reason: str = ""
    field: str = ""


class _Details(msgspec.Struct, frozen=True):
    causes: list[_Cause] | None = None


class Status(msgspec.Struct, frozen=True):
    """metav1 Status, the body of an error response."""

    message: str = ""
    code: int = 0
    details: _Details | None = None


def refusal(
    server: str, doing: str, response: httpx2.Response, *, scope: str = "", grant: str
) -> TrothError:
    """The error that an unsuccessful response means.

    Args:
        server: Who sent it.
        doing: The request in words, such as ``patch Pod shop/web``.
        response: The response, read to its end.
        scope: The namespace in words, if ``doing`` doesn't name it.
        grant: How to get the permission.
    """
    code = response.status_code
    try:
        status = decode(response.content, Status)
    except msgspec.DecodeError:
        status = Status(message=response.reason_phrase)
    said = f"{code} {legible(status.message)}".strip()
    causes = (status.details.causes if status.details else None) or ()
    kind = _BY_CODE.get(code, RefusedError)
    if any(cause.reason == "NamespaceTerminating" for cause in causes):
        kind = NotFoundError
    elif _DENIED.search(status.message):
        kind = DeniedError
    elif code == httpx2.codes.FORBIDDEN:
        where = f" {scope}" if scope else ""
        return ForbiddenError(f"no permission to {doing}{where} ({server}: {said})", grant)
    remedy = ""
    if code == httpx2.codes.UNAUTHORIZED:
        remedy = "see that the token or client certificate is valid for this cluster"
    error = kind(server, f"refused to {doing}: {said}", remedy)
    error.retry_after = _retry_after(response)
    if isinstance(error, InvalidError):
        error.fields = frozenset(cause.field for cause in causes if cause.field)
    return error


def absence(server: str, resource: Resource[Any]) -> NotServedError:
    """The error that no version of a resource is served."""
    return NotServedError(
        f"{server} doesn't serve {resource} {' or '.join(resource.versions)}",
        "run Kubernetes 1.21 or later, and see that the address is its API server's",
    )


def translated(server: str, error: Exception, doing: str = "") -> TrothError:
    """The error of a request to ``server``, in troth's words.

    Args:
        server: Whom the request went to.
        error: What httpx2, lightkube, msgspec or the system raised.
        doing: The request in words, if that isn't obvious.
    """
    could_not = f"could not {doing}: " if doing else ""
    match error:
        case ConfigError() | PermissionError() | FileNotFoundError():
            return EnvironmentLackError(
                f"{could_not}there are no usable credentials: {legible(error)}",
                "correct the kubeconfig, or mount the service account's token",
            )
        case msgspec.DecodeError():
            reason = f"{could_not}sent something that isn't Kubernetes' JSON: {legible(error)}"
            return PeerError(server, reason, "see that nothing else answers there")
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            reason = f"{could_not}can't be connected to: {legible(error)}"
            return PeerError(server, reason, "see that it runs and can be reached from here")
        case httpx2.TimeoutException():
            return PeerError(server, f"{could_not}has been silent for too long")
    return PeerError(server, f"{could_not}broke the connection: {legible(error)}")


def legible(words: object) -> str:
    """Foreign text, made safe for a terminal."""
    text = str(words) or type(words).__name__
    shown = "".join(each if each.isprintable() else "?" for each in text[:_LONGEST_MESSAGE])
    return shown + ("..." if len(text) > _LONGEST_MESSAGE else "")


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_RETRY_AFTER) if text.isascii() and text.isdigit() else 0.0
