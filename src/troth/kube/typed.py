"""lightkube's client for single requests, and its errors in troth's words.

What is followed goes through `troth.kube.client` instead.
"""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx2
import msgspec
from lightkube import AsyncClient, ConfigError
from lightkube.config.models import User
from lightkube.core.exceptions import ApiError

from troth.errors import EnvironmentLackError, PeerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightkube import SingleConfig

    from troth.errors import TrothError

API = "the Kubernetes API"


def api_client(config: SingleConfig, *, field_manager: str) -> AsyncClient:
    """A client; its owner closes it.

    Args:
        config: How to reach the API server, and as whom.
        field_manager: Under which name to write.

    Raises:
        EnvironmentLackError: ``config`` can't be used.
    """
    try:
        return AsyncClient(
            config._replace(user=config.user or User()),
            field_manager=field_manager,
            trust_env=False,
        )
    except (ConfigError, OSError, ValueError, httpx2.InvalidURL) as error:
        raise EnvironmentLackError(
            f"the Kubernetes configuration can't be used: {error}",
            "correct the kubeconfig, or mount the service account's token and CA",
        ) from error


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
    except (ConfigError, OSError) as error:  # a token file that can't be read
        raise EnvironmentLackError(
            f"no usable credentials to {doing}: {error}",
            "correct the kubeconfig, or mount the service account's token",
        ) from error
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
