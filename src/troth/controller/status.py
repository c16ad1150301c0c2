"""Writes each PeerAuthentication's status, and Events when a policy is refused or in force."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from lightkube.models.core_v1 import ObjectReference

from troth.cluster.events import EventType
from troth.controller.conditions import (
    ACCEPTED,
    ENFORCED,
    PolicyHistory,
    StoredPolicy,
    conditions,
    merged,
    was_enforced,
)
from troth.errors import TrothError
from troth.kube.errors import ConflictError, NotFoundError
from troth.kube.resource import ObjectKind
from troth.policy.lint import lint_policies
from troth.policy.model import KIND, PeerAuthentication
from troth.policy.parse import parse_peer_authentication

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from troth.cluster.contract import NodeReport
    from troth.cluster.events import Events
    from troth.errors import Problem
    from troth.kube.client import ApiClient


_PEER_AUTHENTICATION = ObjectKind(
    kind=KIND, plural="peerauthentications", group="security.istio.io", shape=msgspec.Raw
)

# Events by condition and new status; other changes cause none.
_NEWS = {
    (ACCEPTED, "False"): (EventType.WARNING, "Refused"),
    (ENFORCED, "True"): (EventType.NORMAL, "Enforced"),
}


class _Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    namespace: str
    name: str
    uid: str
    resource_version: str
    generation: int = 0


class PolicyObject(msgspec.Struct, frozen=True, kw_only=True):
    """A PeerAuthentication as stored by the API server.

    Attributes:
        namespace: Its namespace.
        name: Its name.
        version: ``metadata.resourceVersion``.
        stored: Its metadata and problems.
        policy: Its content; None if it is refused.
        conditions: ``status.conditions``.
    """

    namespace: str
    name: str
    version: str
    stored: StoredPolicy
    policy: PeerAuthentication | None
    conditions: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_enforced(self) -> bool:
        """Whether its status says that every node enforces this version."""
        return was_enforced(self.conditions, self.stored.generation)


def read_policy(document: Mapping[str, Any]) -> PolicyObject:
    """Read an object of the API, valid or not.

    Raises:
        msgspec.ValidationError: Its metadata isn't an API server's.
    """
    metadata = msgspec.convert(document.get("metadata"), _Metadata)
    policy, problems = parse_peer_authentication(document, stored=True)
    status = document.get("status")
    present = status.get("conditions") if isinstance(status, dict) else None
    return PolicyObject(
        namespace=metadata.namespace,
        name=metadata.name,
        version=metadata.resource_version,
        stored=StoredPolicy(
            uid=metadata.uid,
            generation=metadata.generation,
            is_strict=policy is not None and policy.is_strict,
            problems=problems,
        ),
        policy=policy,
        conditions=tuple(present) if isinstance(present, list) else (),
    )


class StatusWriter:
    """Keeps the status of all policies up to date.

    Args:
        client: The API server's.
        root_namespace: Where mesh-wide policies live.
        events: Gets Events about refusals.
    """

    def __init__(self, client: ApiClient, *, root_namespace: str, events: Events) -> None:
        self._client = client
        self._root_namespace = root_namespace
        self._events = events
        self._history = PolicyHistory()

    def note(self, policies: Iterable[PolicyObject]) -> None:
        """Record the existing policies; call it on every change, however fast."""
        self._history.note(each.stored for each in policies)

    async def write(
        self,
        policies: Sequence[PolicyObject],
        reports: Mapping[str, NodeReport | None],
        silent: Collection[str] = (),
    ) -> None:
        """Write what has changed.

        Args:
            policies: All that are stored.
            reports: By node; None for one that can't be read.
            silent: The nodes whose agents are silent.

        Raises:
            TrothError: The API server refused some of it; the rest was written.
        """
        warnings = self._warnings(policies)
        failures = []
        for policy in policies:
            found = (
                *policy.stored.problems,
                *warnings.get(f"{policy.namespace}/{policy.name}", ()),
            )
            stored = msgspec.structs.replace(
                policy.stored,
                problems=found,
                key=f"{policy.namespace}/{policy.name}",
                namespace="" if policy.namespace == self._root_namespace else policy.namespace,
                was_enforced=policy.is_enforced,
            )
            wanted = conditions(stored, reports, self._history, silent)
            after = merged(policy.conditions, wanted, now=datetime.now(UTC))
            if after is None:
                continue
            try:
                if await self._patch(policy, after):
                    await self._tell(policy, after)
            except TrothError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _warnings(self, policies: Iterable[PolicyObject]) -> dict[str, list[Problem]]:
        valid = [each.policy for each in policies if each.policy is not None]
        result: dict[str, list[Problem]] = {}
        for problem in lint_policies(valid, root_namespace=self._root_namespace):
            result.setdefault(problem.subject.removeprefix(f"{KIND} "), []).append(problem)
        return result

    async def _patch(self, policy: PolicyObject, after: list[dict[str, Any]]) -> bool:
        """Write the conditions; False if the policy is gone or has changed."""
        patch = {
            "metadata": {"resourceVersion": policy.version},
            "status": {"conditions": after, "observedGeneration": policy.stored.generation},
        }
        try:
            await self._client.patch(
                _PEER_AUTHENTICATION, policy.name, patch, policy.namespace, part="status"
            )
        except (ConflictError, NotFoundError):
            return False
        return True

    async def _tell(self, policy: PolicyObject, after: Iterable[Mapping[str, Any]]) -> None:
        before = {each.get("type"): each.get("status") for each in policy.conditions}
        for condition in after:
            kind, status = condition["type"], condition["status"]
            news = _NEWS.get((kind, status))
            if news is None or before.get(kind) == status:
                continue
            event_type, reason = news
            await self._events.record(
                ObjectReference(
                    apiVersion="security.istio.io/v1",
                    kind=KIND,
                    namespace=policy.namespace,
                    name=policy.name,
                    uid=policy.stored.uid,
                ),
                event_type,
                reason,
                condition["message"],
            )
