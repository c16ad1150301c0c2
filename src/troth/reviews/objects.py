"""ConnectionReview (``troth.dev/v1alpha1``): a question to a node's agent, and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from troth.cluster.contract import REVIEW_API, REVIEW_KIND, REVIEWS
from troth.connect.findings import Attempt, Route
from troth.connect.report import Trace
from troth.kube.resource import ObjectKind
from troth.mesh.model import EnvoyStatus
from troth.traffic.connection import Cause, Connection

ASKER_LABEL = "troth.dev/asker"
"""Names the one run of a command that made the review."""

ANSWERED = "Answered"
"""The condition's type: True with an answer, False when the question was refused."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
_FullName = Annotated[str, msgspec.Meta(min_length=1, max_length=507)]


class Question(StrEnum):
    """What is asked."""

    TOTALS = "Totals"
    """What the node has seen of the namespace's connections, by kind."""

    EVENTS = "Events"
    """The newest of them."""

    ROUTE = "Route"
    """Where a connection from a pod would go."""

    CONNECT = "Connect"
    """Make it."""

    TRACE = "Trace"
    """Make a handshake with the tunnel of the pod at an address."""


class ReviewSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """``spec``; the definition in ``deploy/crds`` says what each field is for.

    Attributes:
        from_pod: The name of the pod that connects.
        claim: A service account, ``NAMESPACE/NAME``.
    """

    node_name: _Name
    question: Question
    since_seconds: Annotated[int, msgspec.Meta(ge=1, le=7 * 24 * 3600)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000
    from_pod: _Name | None = msgspec.field(default=None, name="from")
    to: _FullName | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    past_tunnel: bool = False
    timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=30)] = 5
    credentials: Literal["own", "none", "foreign-ca"] = "own"
    claim: Annotated[str, msgspec.Meta(max_length=507)] | None = None

    def __post_init__(self) -> None:
        if self.claim is not None and self.credentials != "foreign-ca":
            raise ValueError("claim belongs to credentials foreign-ca")


class ReviewCondition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """metav1 Condition."""

    type: str
    status: str
    last_transition_time: datetime
    reason: str
    message: str


class ReviewStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``status``; without the condition `ANSWERED` there is no answer yet.

    Attributes:
        remedy: What to do where the question was refused.
        answer: As the question has it: `Observations`, `EventsAnswer` and so on.
    """

    conditions: tuple[ReviewCondition, ...] = ()
    remedy: str = ""
    answer: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def answered(self) -> ReviewCondition | None:
        """What says whether the question was answered."""
        return next((each for each in self.conditions if each.type == ANSWERED), None)


class ReviewMetadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """metav1 ObjectMeta."""

    name: str
    namespace: str
    uid: str
    creation_timestamp: datetime | None = None

    @property
    def key(self) -> str:
        """``NAMESPACE/NAME``."""
        return f"{self.namespace}/{self.name}"


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """One ConnectionReview."""

    metadata: ReviewMetadata
    spec: msgspec.Raw
    status: ReviewStatus = ReviewStatus()


CONNECTION_REVIEW = ObjectKind(
    kind=REVIEW_KIND, plural=REVIEWS, group=REVIEW_API[0], version=REVIEW_API[1], shape=Review
)


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A connection, and what explains it where it was refused or failed."""

    connection: Connection
    cause: Cause | None = None


class EventsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The newest connections of a namespace that a node has seen, the oldest first.

    Attributes:
        left_out: How many older ones were too many to tell.
    """

    events: tuple[Seen, ...]
    left_out: int = 0


class RouteAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Where a connection would go.

    Attributes:
        nodes: The node of each captured pod it may be led to, by the pod's address.
        envoy: Of the client's node.
    """

    route: Route
    nodes: Mapping[str, str]
    envoy: EnvoyStatus


class ConnectAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A connection that was made, and what explains it as far as this node knows."""

    attempt: Attempt
    cause: Cause | None = None
    envoy: EnvoyStatus


class TraceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A handshake that was made, and what explains it as far as this node knows."""

    trace: Trace
    cause: Cause | None = None
