"""What the API server's refusals of a list or watch mean, and how such a request can fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
from lightkube import ConfigError

from troth.errors import EnvironmentLackError, PeerError, TrothError
from troth.kube.decoding import decode
from troth.kube.reflector import Absent, Broken, Gone

if TYPE_CHECKING:
    from troth.kube.resource import Resource

_LONGEST_MESSAGE = 400
_LONGEST_RETRY_AFTER = 60.0


class Status(msgspec.Struct, frozen=True):
    """metav1 Status, the answer that is an error."""

    message: str = ""
    code: int = 0


def refusal(
    server: str, resource: Resource[Any], response: httpx2.Response, verb: str
) -> Gone | Absent | Broken:
    """What an answer other than 200 means.

    Args:
        server: Who gave it.
        resource: What was asked for.
        response: The answer, read to its end.
        verb: What was asked, as RBAC calls it.
    """
    code = response.status_code
    if code == httpx2.codes.GONE:
        return Gone()
    if code == httpx2.codes.NOT_FOUND:
        return Absent()
    said = f"{code} {legible(message(response))}".strip()
    if code == httpx2.codes.FORBIDDEN:
        return Broken(
            EnvironmentLackError(
                f"no permission to {verb} {resource} {resource.scope} ({server}: {said})",
                f"give it by a ClusterRole: apiGroups [{resource.group!r}], resources "
                f"[{resource.plural!r}], verbs ['list', 'watch']",
            ),
            is_forbidden=True,
        )
    remedy = ""
    if code == httpx2.codes.UNAUTHORIZED:
        remedy = "see that the token or client certificate is valid for this cluster"
    error = PeerError(server, f"refused to {verb} {resource}: {said}", remedy)
    return Broken(error, _retry_after(response))


def absence(server: str, resource: Resource[Any]) -> Absent | Broken:
    """What it means that a resource isn't served."""
    if resource.is_optional:
        return Absent()
    return Broken(
        EnvironmentLackError(
            f"{server} doesn't serve {resource} {' or '.join(resource.versions)}",
            "run Kubernetes 1.21 or later, and see that the address is its API server's",
        )
    )


def translated(server: str, error: Exception) -> TrothError:
    """The error that a request to ``server`` ended with, in troth's words."""
    match error:
        case ConfigError() | PermissionError() | FileNotFoundError():
            return EnvironmentLackError(
                f"there are no usable credentials: {legible(error)}",
                "correct the kubeconfig, or mount the service account's token",
            )
        case msgspec.DecodeError():
            reason = f"sent something that isn't Kubernetes' JSON: {legible(error)}"
            return PeerError(server, reason, "see that nothing else answers there")
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            reason = f"can't be connected to: {legible(error)}"
            return PeerError(server, reason, "see that it runs and can be reached from here")
        case httpx2.TimeoutException():
            return PeerError(server, "has been silent for too long")
    return PeerError(server, f"broke the connection: {legible(error)}")


def legible(words: object) -> str:
    """What somebody else said, fit for a terminal."""
    text = str(words) or type(words).__name__
    shown = "".join(each if each.isprintable() else "?" for each in text[:_LONGEST_MESSAGE])
    return shown + ("..." if len(text) > _LONGEST_MESSAGE else "")


def message(response: httpx2.Response) -> str:
    """What an answer that is an error says, in its own words."""
    try:
        return decode(response.content, Status).message
    except msgspec.DecodeError:
        return response.reason_phrase


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_RETRY_AFTER) if text.isascii() and text.isdigit() else 0.0
