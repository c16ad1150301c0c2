"""The root's rotation as users see it: its state, and how to request one.

The key is never read: only the metadata of the authority's Secret leaves the API server.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from troth.cluster.contract import (
    AUTHORITY_SECRET,
    SIGNING_ROOT_ANNOTATION,
    TRUST_BUNDLE,
    TRUST_BUNDLE_KEY,
    NodeReport,
)
from troth.controller.keyring import ROTATE_ANNOTATION, Phase, awaited, rotation_phase
from troth.controller.objects import reports
from troth.errors import EnvironmentLackError, PeerError
from troth.kube.client import ApiClient
from troth.kube.errors import NotFoundError
from troth.kube.resource import ObjectKind, Resource, reader
from troth.kube.wire import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lightkube import SingleConfig

_REFUSED = "RotationRefused"
_FRESH = timedelta(minutes=10)
"""The same Event is not repeated for five minutes."""


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """A root that the mesh trusts.

    Attributes:
        fingerprint: SHA-256 of its DER.
        not_after: Its expiry.
        signs: Whether new certificates chain to it.
    """

    fingerprint: str
    not_after: datetime
    signs: bool


class RotationState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the root's rotation; ``troth ca status -o json`` prints exactly this.

    Attributes:
        phase: ``stable``, ``distributing`` or ``switched``.
        since: When the phase began; None if there has been no rotation.
        requested: Whether one is requested that has not begun.
        roots: The trusted ones.
        waiting_for: What the phase is waiting for, in words.
    """

    phase: Phase
    since: datetime | None
    requested: bool
    roots: tuple[Root, ...]
    waiting_for: tuple[str, ...]
    schema: Literal["troth/ca-status/v1"] = "troth/ca-status/v1"

    @property
    def at_rest(self) -> bool:
        """Whether no rotation is under way or requested."""
        return self.phase is Phase.STABLE and not self.requested


class _Stand(NamedTuple):
    phase: Phase
    since: datetime | None
    arriving: frozenset[str]
    leaving: frozenset[str]


def rotation_state(
    annotations: Mapping[str, str],
    roots: Iterable[x509.Certificate],
    signing_root: str,
    reported: Mapping[str, NodeReport | None],
    *,
    now: datetime,
) -> RotationState:
    """The state from the cluster's objects.

    Args:
        annotations: The Secret's.
        roots: The trust bundle's.
        signing_root: Fingerprint of the one that signs.
        reported: By node; None for a report that can't be read.
        now: The time.

    Raises:
        InputError: An annotation is invalid.
    """
    phase, since = rotation_phase(annotations, AUTHORITY_SECRET)
    believed = tuple(
        Root(
            fingerprint=(fingerprint := root.fingerprint(hashes.SHA256()).hex()),
            not_after=root.not_valid_after_utc,
            signs=fingerprint == signing_root,
        )
        for root in roots
    )
    others = frozenset(root.fingerprint for root in believed if not root.signs)
    nobody: frozenset[str] = frozenset()
    stand = _Stand(
        phase,
        since,
        arriving=others if phase is Phase.DISTRIBUTING else nobody,
        leaving=others if phase is Phase.SWITCHED else nobody,
    )
    return RotationState(
        phase=phase,
        since=since,
        requested=ROTATE_ANNOTATION in annotations,
        roots=believed,
        waiting_for=awaited(stand, reported, now=now),
    )


class RootRotation:
    """Reads the rotation's state from the cluster, and requests a rotation; close it afterwards.

    Args:
        config: The API server's address, and the credentials of a user who may get and patch the
            authority's Secret, get the trust bundle, and list Leases and Events.
        namespace: The controller's.
    """

    def __init__(self, config: SingleConfig, namespace: str) -> None:
        self._namespace = namespace
        self._client = ApiClient(config)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def state(self) -> RotationState:
        """The rotation's state.

        Raises:
            EnvironmentLackError: There is no authority, or no permission to read it.
            PeerError: The API server can't be reached, or an object can't be read.
            InputError: An annotation of the Secret is invalid.
        """
        try:
            secret = await self._client.get(_SECRET, AUTHORITY_SECRET, self._namespace)
            bundle = await self._client.get(_CONFIG_MAP, TRUST_BUNDLE, self._namespace)
        except NotFoundError as error:
            raise self._no_authority() from error
        try:
            pem = bundle.data.get(TRUST_BUNDLE_KEY, "").encode()
            roots = x509.load_pem_x509_certificates(pem)
        except ValueError as error:
            raise PeerError(
                f"ConfigMap {self._namespace}/{TRUST_BUNDLE}", "has something else than roots"
            ) from error
        return rotation_state(
            secret.metadata.annotations,
            roots,
            bundle.metadata.annotations.get(SIGNING_ROOT_ANNOTATION, ""),
            await self._reported(),
            now=datetime.now(UTC),
        )

    async def request(self) -> None:
        """Ask the controller to replace the root; raises like `state`."""
        now = f"{datetime.now(UTC):%FT%TZ}"
        change = {"metadata": {"annotations": {ROTATE_ANNOTATION: now}}}
        try:
            await self._client.patch(_SECRET, AUTHORITY_SECRET, change, self._namespace)
        except NotFoundError as error:
            raise self._no_authority() from error

    async def refusal(self) -> str:
        """Why the controller refuses to begin; empty if it hasn't refused."""
        about = f"involvedObject.name={AUTHORITY_SECRET},reason={_REFUSED}"
        events = msgspec.structs.replace(_EVENTS, namespace=self._namespace, field_selector=about)
        found = [item.value for item in (await self._client.list(events)).items if item.value]
        told = [each for each in found if each.last_timestamp]
        if not told:
            return ""
        newest = max(told, key=lambda each: each.last_timestamp or _NEVER)
        fresh = datetime.now(UTC) - (newest.last_timestamp or _NEVER) < _FRESH
        return newest.message if fresh else ""

    async def _reported(self) -> Mapping[str, NodeReport | None]:
        listed = await self._client.list(reports(self._namespace))
        found = [item.value for item in listed.items if item.value is not None]
        return {each.node: each.report for each in found}

    def _no_authority(self) -> EnvironmentLackError:
        return EnvironmentLackError(
            f"there is no certificate authority in namespace {self._namespace}",
            "see that the controller runs there, or name its namespace with --namespace",
        )


_NEVER = datetime.min.replace(tzinfo=UTC)


class _ObjectMeta(msgspec.Struct, frozen=True):
    annotations: dict[str, str] = {}


class _Metadata(msgspec.Struct, frozen=True):
    metadata: _ObjectMeta


class _ConfigMap(msgspec.Struct, frozen=True):
    metadata: _ObjectMeta
    data: dict[str, str] = {}


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    message: str = ""
    last_timestamp: datetime | None = None


_SECRET = ObjectKind(kind="Secret", plural="secrets", shape=_Metadata, metadata_only=True)
_CONFIG_MAP = ObjectKind(kind="ConfigMap", plural="configmaps", shape=_ConfigMap)
_EVENTS = Resource(plural="events", read=reader("Event", functools.partial(decode, kind=_Event)))
