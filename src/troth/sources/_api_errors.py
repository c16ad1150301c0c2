"""The border to the Kubernetes API: its client's errors become troth's here, and nowhere else."""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx2
import msgspec
from lightkube.core.exceptions import ApiError

from troth.errors import EnvironmentLackError, PeerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.errors import TrothError

API = "the Kubernetes API"


@contextlib.contextmanager
def api_errors(doing: str) -> Iterator[None]:
    """Tell the client's errors inside the block in troth's words.

    Args:
        doing: What was tried, as in ``update Lease troth-system/troth-controller``.

    Raises:
        EnvironmentLackError: We have no right to do it.
        PeerError: The server refused it for another reason, or can't be reached.
    """
    try:
        yield
    except httpx2.HTTPError as error:
        raise _explained(error, doing) from error
    except msgspec.MsgspecError as error:
        raise PeerError(API, f"sent something unreadable on {doing}: {error}") from error


def is_conflict(error: ApiError) -> bool:
    """Whether somebody else wrote the object first, or made it already."""
    return error.status.code == HTTPStatus.CONFLICT


def is_missing(error: ApiError) -> bool:
    """Whether there is no such object."""
    return error.status.code == HTTPStatus.NOT_FOUND


def is_ending_namespace(error: ApiError) -> bool:
    """Whether the object's namespace is being deleted, so that nothing new is made in it."""
    causes = (error.status.details.causes if error.status.details else None) or ()
    return any(cause.reason == "NamespaceTerminating" for cause in causes)


def _explained(error: httpx2.HTTPError, doing: str) -> TrothError:
    if isinstance(error, ApiError):
        words = error.status.message or error.status.reason or "no reason given"
        if error.status.code == HTTPStatus.FORBIDDEN:
            return EnvironmentLackError(
                f"no permission to {doing}: {words}", "grant it by RBAC as deploy/ does"
            )
        return PeerError(API, f"refused to {doing}: {words}")
    words = str(error) or type(error).__name__
    return PeerError(API, f"could not {doing}: {words}")
