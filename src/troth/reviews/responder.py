"""Answers the reviews that are put to one node."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from troth.cluster.contract import REVIEW_API, REVIEW_KIND, REVIEW_LIFETIME, REVIEWS
from troth.errors import EnvironmentLackError, PeerError, TrothError
from troth.kube.client import ApiClient
from troth.kube.errors import NotFoundError
from troth.kube.follow import Followed
from troth.kube.resource import Resource, reader
from troth.kube.wire import decode
from troth.program import woken
from troth.reviews.answers import answer
from troth.reviews.limits import MOST_OF_NAMESPACE, Asked, next_turns
from troth.reviews.objects import (
    ANSWERED,
    CONNECTION_REVIEW,
    Question,
    Review,
    ReviewCondition,
    ReviewSpec,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightkube import SingleConfig

    from troth.reviews.answers import Knowledge

_log = structlog.get_logger(__name__)

_PAGE = 10
"""Reviews in one answer to a list: somebody's answers may be among them, 1 MB each."""

_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 10.0


def read_asked(raw: msgspec.Raw) -> Asked | None:
    """What to keep of a review; None of one that is answered.

    Raises:
        msgspec.DecodeError: It is no review.
    """
    review = decode(raw, Review)
    if review.status.answered is not None:
        return None
    # A copy: a part of what was received would keep all of it.
    return Asked(metadata=review.metadata, spec=review.spec.copy())


class Responder:
    """Answers what a node is asked. Needs to list and watch reviews, and to patch their status.

    Args:
        config: How to reach the API server, and as whom.
        node_name: The node's.
        known: Gives what to answer from; None while nothing is known.
    """

    def __init__(
        self, config: SingleConfig, *, node_name: str, known: Callable[[], Knowledge | None]
    ) -> None:
        self._config = config
        self._node_name = node_name
        self._known = known
        self._woken = asyncio.Event()
        self._answering: dict[str, str] = {}  # the namespaces, by UID
        self._refusing: set[str] = set()
        self._looking_back = asyncio.Lock()
        self._answered: set[str] = set()
        self._said = ""

    async def run(self) -> None:
        """Answer until cancelled."""
        group, version = REVIEW_API
        resource: Resource[Asked] = Resource(
            plural=REVIEWS,
            group=group,
            versions=(version,),
            read=reader(REVIEW_KIND, read_asked),
            field_selector=f"spec.nodeName={self._node_name}",
            is_optional=True,
            page=_PAGE,
        )
        async with (
            contextlib.aclosing(ApiClient(self._config)) as client,
            asyncio.TaskGroup() as tasks,
        ):
            reviews = Followed(client, resource, on_change=self._woken.set)
            tasks.create_task(reviews.run())
            while True:
                await self._look_up()
                self._tell(reviews.error)
                known = self._known()
                if known is None:
                    await asyncio.sleep(_RETRY_SECONDS)
                    self._woken.set()
                    continue
                there = {each.metadata.uid: each for each in reviews.objects.values()}
                self._answered &= there.keys()
                turns = next_turns(
                    filter(self._is_waiting, there.values()),
                    answering=self._answering,
                    refusing=len(self._refusing),
                )
                for each in turns.answer:
                    self._answering[each.metadata.uid] = each.metadata.namespace
                    tasks.create_task(self._settle(client, each, known))
                for each in turns.refuse:
                    self._refusing.add(each.metadata.uid)
                    tasks.create_task(self._settle(client, each, None))

    async def _look_up(self) -> None:
        """Wait until something has changed, but not for long."""
        await woken(self._woken, _LOOK_SECONDS)
        self._woken.clear()

    def _tell(self, error: TrothError | None) -> None:
        """Log once what keeps reviews from being heard of; the agent does its work without."""
        said = str(error or "")
        if said and said != self._said:
            _log.warning("can't hear what this node is asked", reason=said)
        self._said = said

    def _is_waiting(self, review: Asked) -> bool:
        uid, made = review.metadata.uid, review.metadata.creation_timestamp
        return (
            uid not in self._answering
            and uid not in self._refusing
            and uid not in self._answered
            and made is not None
            and datetime.now(UTC) - made < REVIEW_LIFETIME
        )

    async def _settle(self, client: ApiClient, review: Asked, known: Knowledge | None) -> None:
        """Answer a review; without ``known`` refuse it, as one too many."""
        uid = review.metadata.uid
        try:
            status = _too_many() if known is None else await self._status(review, known)
            change = [{"op": "add", "path": "/status", "value": status}]
            with contextlib.suppress(NotFoundError):
                await client.patch(
                    CONNECTION_REVIEW,
                    review.metadata.name,
                    change,
                    review.metadata.namespace,
                    part="status",
                )
            self._answered.add(uid)
        except TrothError as error:
            _log.warning("a review was not answered", review=review.metadata.key, reason=str(error))
            await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._answering.pop(uid, None)
            self._refusing.discard(uid)
            self._woken.set()

    async def _status(self, review: Asked, known: Knowledge) -> dict[str, object]:
        namespace = review.metadata.namespace
        try:
            spec = decode(review.spec, ReviewSpec)
            looks_back = spec.question in {Question.TOTALS, Question.EVENTS}
            # Going through all that was seen takes memory and a processor: one at a time.
            async with self._looking_back if looks_back else contextlib.nullcontext():
                found = msgspec.Raw(msgspec.json.encode(await answer(spec, namespace, known)))
        except msgspec.DecodeError as error:
            return _refused(f"the question can't be read: {error}", "write it as its CRD says")
        except PeerError as error:
            return _refused(str(PeerError(error.peer, error.reason)), error.remedy)
        except EnvironmentLackError as error:
            return _refused(error.lack, error.remedy)
        except TrothError as error:
            return _refused(str(error), "")
        except Exception:  # noqa: BLE001 - one bad question must not end the agent
            _log.exception("a review failed", review=review.metadata.key)
            return _refused("an internal error; the agent's log has the traceback", "")
        return {"conditions": (_condition("True", "Answered", ""),), "answer": found}


def _too_many() -> dict[str, object]:
    return _refused(
        f"the namespace has more than {MOST_OF_NAMESPACE} open questions to this node",
        "ask again when they are answered",
    )


def _refused(why: str, remedy: str) -> dict[str, object]:
    return {"conditions": (_condition("False", "Refused", why),), "remedy": remedy}


def _condition(status: str, reason: str, message: str) -> ReviewCondition:
    return ReviewCondition(
        type=ANSWERED,
        status=status,
        last_transition_time=datetime.now(UTC),
        reason=reason,
        message=message,
    )
