"""Answers the reviews that are put to one node."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from troth._contract import REVIEW_API, REVIEW_LIFETIME, REVIEWS
from troth.errors import EnvironmentLackError, PeerError, TrothError
from troth.reviews._answers import answer
from troth.reviews._objects import (
    ANSWERED,
    Condition,
    Review,
    ReviewSpec,
)
from troth.sources.kubernetes import (
    ApiRequests,
    ApiServer,
    Followed,
    Resource,
    decode,
    model_reader,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightkube import SingleConfig

    from troth.reviews._answers import Knowledge

_log = structlog.get_logger(__name__)

_AT_ONCE = 32
_AT_ONCE_OF_NAMESPACE = 8
"""Reviews that are worked on: who asks much about one namespace can't keep others waiting. The rest
waits, and what has waited too long isn't answered."""

_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 10.0


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
        self._working: dict[str, str] = {}  # the namespaces, by UID
        self._answered: set[str] = set()
        self._said = ""

    async def run(self) -> None:
        """Answer until cancelled."""
        group, version = REVIEW_API
        resource: Resource[Review] = Resource(
            plural=REVIEWS,
            group=group,
            versions=(version,),
            read=model_reader(Review),
            field_selector=f"spec.nodeName={self._node_name}",
            is_optional=True,
        )
        async with (
            contextlib.aclosing(ApiServer(self._config)) as server,
            contextlib.aclosing(ApiRequests(self._config)) as requests,
            asyncio.TaskGroup() as tasks,
        ):
            reviews = Followed(server, resource, on_change=self._woken.set)
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
                for uid, review in there.items():
                    if self._is_open(review):
                        self._working[uid] = review.metadata.namespace
                        tasks.create_task(self._settle(requests, review, known))

    async def _look_up(self) -> None:
        """Wait until something has changed, but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._woken.wait()
        self._woken.clear()

    def _tell(self, error: TrothError | None) -> None:
        """Log once what keeps reviews from being heard of; the agent does its work without."""
        said = str(error or "")
        if said and said != self._said:
            _log.warning("can't hear what this node is asked", reason=said)
        self._said = said

    def _is_open(self, review: Review) -> bool:
        metadata, made = review.metadata, review.metadata.creation_timestamp
        of_namespace = sum(each == metadata.namespace for each in self._working.values())
        return (
            metadata.uid not in self._working
            and metadata.uid not in self._answered
            and len(self._working) < _AT_ONCE
            and of_namespace < _AT_ONCE_OF_NAMESPACE
            and review.status.answered is None
            and made is not None
            and datetime.now(UTC) - made < REVIEW_LIFETIME
        )

    async def _settle(self, requests: ApiRequests, review: Review, known: Knowledge) -> None:
        uid = review.metadata.uid
        try:
            status = await self._status(review, known)
            await requests.put_at(f"{review.path}/status", "/status", status, msgspec.Raw)
            self._answered.add(uid)
        except TrothError as error:
            _log.warning("a review was not answered", review=review.path, reason=str(error))
            await asyncio.sleep(_RETRY_SECONDS)
        finally:
            del self._working[uid]
            self._woken.set()

    async def _status(self, review: Review, known: Knowledge) -> dict[str, object]:
        namespace = review.metadata.namespace
        try:
            spec = decode(review.spec, ReviewSpec)
            found = await answer(spec, namespace, known)
        except msgspec.DecodeError as error:
            return _refused(f"the question can't be read: {error}", "write it as its CRD says")
        except PeerError as error:
            return _refused(str(PeerError(error.peer, error.reason)), error.remedy)
        except EnvironmentLackError as error:
            return _refused(error.lack, error.remedy)
        except TrothError as error:
            return _refused(str(error), "")
        except Exception:  # noqa: BLE001 - one bad question must not end the agent
            _log.exception("a review failed", review=review.path)
            return _refused("an internal error; the agent's log has the traceback", "")
        return {"conditions": (_condition("True", "Answered", ""),), "answer": found}


def _refused(why: str, remedy: str) -> dict[str, object]:
    return {"conditions": (_condition("False", "Refused", why),), "remedy": remedy}


def _condition(status: str, reason: str, message: str) -> Condition:
    return Condition(
        type=ANSWERED,
        status=status,
        last_transition_time=datetime.now(UTC),
        reason=reason,
        message=message,
    )
