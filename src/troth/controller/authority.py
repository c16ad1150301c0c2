"""Keeps the authority's Secret and distributes the trusted roots, in a ConfigMap per namespace.

The key is only in the Secret and in the leader's memory. Every write is bound to the version that
was read, so two replicas that start at once end up with one root.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog
from lightkube.models.core_v1 import ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap, Secret

from troth.cluster.contract import (
    AUTHORITY_SECRET,
    CONTROLLER,
    MANAGED_BY_LABEL,
    SIGNING_ROOT_ANNOTATION,
    TRUST_BUNDLE,
    TRUST_BUNDLE_KEY,
)
from troth.cluster.events import EventType
from troth.controller.keyring import (
    Content,
    Keyring,
    Phase,
    awaited,
    begin,
    first_content,
    read_keyring,
    retire,
    signing_root,
    switch,
)
from troth.errors import EnvironmentLackError, InputError, Problem, TrothError
from troth.kube.errors import ConflictError, NotFoundError
from troth.kube.kinds import CONFIG_MAP, SECRET

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from troth.cluster.contract import NodeReport
    from troth.cluster.events import Events
    from troth.identity.authority import CertificateAuthority
    from troth.identity.spiffe import TrustDomain
    from troth.kube.client import ApiClient

_log = structlog.get_logger(__name__)


# The Event at the end of each phase.
_TOLD = {
    Phase.STABLE: ("RotationBegun", "a new root is being distributed"),
    Phase.DISTRIBUTING: ("RotationSwitched", "the new root signs; the old one is still believed"),
    Phase.SWITCHED: ("RotationCompleted", "the old root is believed no more"),
}


class AuthorityKeeper:
    """The mesh's certificate authority, from its Secret.

    Args:
        client: The API server's.
        trust_domain: The one whose identities it signs.
        namespace: Where the Secret is.
        events: Gets Events about problems and phases of a rotation.

    Attributes:
        keyring: The one in force; None until there is a valid one.
        trouble: Why the Secret can't be used now; its last valid content stays in force.
        awaited: What a rotation is waiting for.
    """

    def __init__(
        self, client: ApiClient, *, trust_domain: TrustDomain, namespace: str, events: Events
    ) -> None:
        self._client = client
        self._trust_domain = trust_domain
        self._namespace = namespace
        self._events = events
        self._secret: Secret | None = None
        self._content: Content | None = None
        self._rotation_refused = False
        self.keyring: Keyring | None = None
        self.trouble = ""
        self.awaited: tuple[str, ...] = ()

    @property
    def signing(self) -> CertificateAuthority | None:
        """The authority that signs now."""
        return self.keyring.signing if self.keyring else None

    async def refresh(self) -> None:
        """Read the Secret, and create it if there never was one.

        Raises:
            TrothError: The API server can't be reached. Problems of the Secret itself are in
                ``trouble`` and an Event.
        """
        secret = await self._read() or await self._make()
        if secret is None:
            return
        version = _version(secret)
        if self._secret is not None and version == _version(self._secret):
            return
        self._secret = secret
        self._rotation_refused = False
        try:
            content = _content(secret, self._subject)
            self.keyring = read_keyring(
                content,
                trust_domain=self._trust_domain,
                now=datetime.now(UTC),
                subject=self._subject,
            )
        except InputError as error:
            self.trouble = str(error)
            _log.error("the authority's Secret cannot be used", reason=self.trouble)
            await self._tell(EventType.WARNING, "InvalidAuthority", self.trouble)
            return
        self._content = content
        self.trouble = ""
        _log.info(
            "authority", phase=self.keyring.phase, until=f"{self.keyring.signing.not_after:%FT%TZ}"
        )

    async def advance(self, reports: Mapping[str, NodeReport | None]) -> bool:
        """Take the rotation's next step if it is due.

        Args:
            reports: By node; None for one that can't be read.

        Returns:
            Whether the Secret has changed, so that it should be read again.

        Raises:
            TrothError: The API server can't be reached.
        """
        keyring, content = self.keyring, self._content
        if keyring is None or content is None or self.trouble:
            return False
        now = datetime.now(UTC)
        self.awaited = awaited(keyring, reports, now=now)
        if self.awaited:
            return False
        try:
            after = self._next_step(keyring, content, now)
        except InputError as error:
            await self._refuse_rotation(error)
            return False
        if after is None:
            return False
        return await self._write(after, was=keyring.phase)

    def _next_step(self, keyring: Keyring, content: Content, now: datetime) -> Content | None:
        match keyring.phase:
            case Phase.DISTRIBUTING:
                return switch(content, now=now)
            case Phase.SWITCHED:
                return retire(content, now=now)
            case Phase.STABLE if keyring.wants_rotation:
                return begin(
                    content, trust_domain=self._trust_domain, now=now, subject=self._subject
                )
        return None

    async def distribute(
        self, namespaces: Collection[str], present: Mapping[str, ConfigMap]
    ) -> None:
        """Put the trust bundle into the mesh's namespaces, and remove it from others.

        Args:
            namespaces: Those of the mesh.
            present: The existing ConfigMaps of that name, by namespace.

        Raises:
            TrothError: The API server refused some of it; the rest was done.
        """
        if self.keyring is None:
            return
        # The node agents read it in the controller's own namespace, so write that first.
        wanted = dict.fromkeys((self._namespace, *sorted(namespaces)))
        failures = []
        for namespace in (*wanted, *sorted(present.keys() - wanted.keys())):
            try:
                if namespace not in wanted:
                    await self._take_away(present[namespace])
                else:
                    await self._bring(namespace, present.get(namespace), self.keyring)
            except TrothError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    async def _bring(self, namespace: str, present: ConfigMap | None, keyring: Keyring) -> None:
        data = {TRUST_BUNDLE_KEY: keyring.bundle.pem.decode()}
        annotations = {SIGNING_ROOT_ANNOTATION: signing_root(keyring)}
        if (
            present is not None
            and present.data == data
            and present.metadata is not None
            and annotations.items() <= (present.metadata.annotations or {}).items()
        ):
            return
        config_map = ConfigMap(
            metadata=ObjectMeta(
                name=TRUST_BUNDLE,
                namespace=namespace,
                labels={MANAGED_BY_LABEL: CONTROLLER},
                annotations=annotations,
            ),
            data=data,
        )
        with contextlib.suppress(NotFoundError):  # the namespace is gone or going
            await self._client.apply(CONFIG_MAP, TRUST_BUNDLE, config_map, namespace)

    async def _take_away(self, present: ConfigMap) -> None:
        metadata = present.metadata
        if metadata is None or (metadata.labels or {}).get(MANAGED_BY_LABEL) != CONTROLLER:
            return
        with contextlib.suppress(NotFoundError):
            await self._client.delete(CONFIG_MAP, TRUST_BUNDLE, metadata.namespace or "")

    async def _read(self) -> Secret | None:
        try:
            return await self._client.get(SECRET, AUTHORITY_SECRET, self._namespace)
        except NotFoundError:
            return None

    async def _make(self) -> Secret | None:
        """Make the Secret, unless another replica is faster or it was there before."""
        content = self._content
        if content is None:
            if await self._was_there_before():
                # Another replica may have made both just now.
                if (secret := await self._read()) is None:
                    self._mourn()
                return secret
            content = first_content(self._trust_domain, datetime.now(UTC))
        else:
            _log.warning("the authority's Secret was deleted; making it again from memory")
        secret = Secret(
            metadata=ObjectMeta(
                name=AUTHORITY_SECRET,
                namespace=self._namespace,
                labels={MANAGED_BY_LABEL: CONTROLLER},
                annotations=content.annotations,
            ),
            data=_encoded(content),
            type="Opaque",
        )
        try:
            return await self._client.create(SECRET, secret, self._namespace)
        except ConflictError:
            return await self._read()

    async def _was_there_before(self) -> bool:
        try:
            await self._client.get(CONFIG_MAP, TRUST_BUNDLE, self._namespace)
        except NotFoundError:
            return False
        return True

    def _mourn(self) -> None:
        # A new root now would cut every node off from those that renew their certificates.
        self.trouble = str(
            EnvironmentLackError(
                f"{self._subject} is gone, and with it the root that the mesh believes in",
                "restore it from a backup, or, to start over with a root that no running "
                f"workload believes in yet, delete ConfigMap {self._namespace}/{TRUST_BUNDLE}",
            )
        )

    async def _write(self, content: Content, *, was: Phase) -> bool:
        secret = self._secret
        if secret is None or secret.metadata is None:
            return False
        metadata = msgspec.structs.replace(secret.metadata, annotations=content.annotations)
        after = msgspec.structs.replace(secret, metadata=metadata, data=_encoded(content))
        try:
            await self._client.replace(SECRET, after, AUTHORITY_SECRET, self._namespace)
        except ConflictError:
            return True
        reason, message = _TOLD[was]
        _log.info("rotation", message=message)
        await self._tell(EventType.NORMAL, reason, message)
        return True

    async def _refuse_rotation(self, error: InputError) -> None:
        """Report why a requested rotation can't begin, once until the Secret changes."""
        if not self._rotation_refused:
            self._rotation_refused = True
            _log.error("the rotation cannot begin", reason=str(error))
            await self._tell(EventType.WARNING, "RotationRefused", str(error))

    async def _tell(self, kind: EventType, reason: str, message: str) -> None:
        await self._events.record(self._reference, kind, reason, message)

    @property
    def _subject(self) -> str:
        return f"Secret {self._namespace}/{AUTHORITY_SECRET}"

    @property
    def _reference(self) -> ObjectReference:
        metadata = self._secret.metadata if self._secret else None
        return ObjectReference(
            apiVersion="v1",
            kind="Secret",
            namespace=self._namespace,
            name=AUTHORITY_SECRET,
            uid=metadata.uid if metadata else None,
        )


def _version(secret: Secret) -> str | None:
    return secret.metadata.resourceVersion if secret.metadata else None


def _encoded(content: Content) -> dict[str, str]:
    return {key: base64.b64encode(value).decode() for key, value in content.data.items()}


def _content(secret: Secret, subject: str) -> Content:
    data = {}
    for key, text in (secret.data or {}).items():
        try:
            data[key] = base64.b64decode(text, validate=True)
        except binascii.Error:
            # The API server refuses anything else.
            raise InputError(
                [
                    Problem(
                        subject=subject,
                        path=f"data[{key}]",
                        found="is not base64",
                        wanted="encode it",
                    )
                ]
            ) from None
    return Content(data, (secret.metadata.annotations if secret.metadata else None) or {})
