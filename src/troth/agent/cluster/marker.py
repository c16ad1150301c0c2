"""Tells the mesh which of a node's pods are captured, and take plaintext, by annotations on each.

The patch names the pod's UID, so that a new pod of the same name is never marked for its
predecessor: the API server refuses a patch that would change an object's UID. (Kubernetes' own
controllers adopt objects that way.) Whatever else it refuses is told and tried again, with the same
code or not: admission webhooks answer as they like.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import structlog

from troth.errors import TrothError
from troth.kube.errors import ConflictError, DeniedError, InvalidError, NotFoundError
from troth.kube.kinds import RAW_POD
from troth.mesh.model import (
    CAPTURED_ANNOTATION,
    CAPTURED_AT_ANNOTATION,
    NO_PORTS,
    PLAINTEXT_ANNOTATION,
)
from troth.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from troth.kube.client import ApiClient
    from troth.mesh.model import Pod, Ports

_log = structlog.get_logger(__name__)

_FIRST_RETRY_SECONDS = 0.2
_LONGEST_RETRY_SECONDS = 10.0

_ANNOTATIONS = (CAPTURED_ANNOTATION, CAPTURED_AT_ANNOTATION, PLAINTEXT_ANNOTATION)

_ECHO_SECONDS = 5.0
"""How long to wait until the API server repeats what it was told, before it is told again."""


class Mark(NamedTuple):
    """What others are told of a pod.

    Attributes:
        at: At which addresses they may use the tunnel to it; None if at none.
        plaintext: Where they may send it plaintext all the same.
    """

    at: tuple[str, ...] | None
    plaintext: Ports = NO_PORTS

    @classmethod
    def of(cls, pod: Pod) -> Mark:
        """What they have been told, as far as the API server has repeated it."""
        return cls(pod.captured_at, pod.plaintext)


class Marker:
    """Keeps pods' marks as they should be. Needs the right to patch pods.

    Args:
        client: Of the API server.

    """

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._troubles: dict[str, str] = {}
        self._wrong: dict[str, tuple[Pod, Mark]] = {}
        self._written: dict[str, tuple[Mark, float]] = {}
        self._woken = asyncio.Event()

    @property
    def troubles(self) -> Mapping[str, str]:
        """Why marks could not be written, by the pods' UIDs."""
        return self._troubles

    @property
    def trouble(self) -> str:
        """Why one of them could not; empty when all is well."""
        return next(iter(self._troubles.values()), "")

    def want(self, pods: Iterable[tuple[Pod, Mark]]) -> None:
        """Have each pod marked so where it isn't already."""
        self._wrong = {pod.uid: (pod, mark) for pod, mark in pods if Mark.of(pod) != mark}
        self._written = {uid: self._written[uid] for uid in self._written.keys() & self._wrong}
        self._troubles = {uid: why for uid, why in self._troubles.items() if uid in self._wrong}
        self._woken.set()

    async def run(self) -> None:
        """Write marks until cancelled."""
        backoff = Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        while True:
            await self._woken.wait()
            self._woken.clear()
            now = asyncio.get_running_loop().time()
            due = [each for each in self._wrong.values() if self._is_due(*each, now)]
            if not due:
                continue
            troubles = await asyncio.gather(*(self._mark(*each) for each in due))
            self._troubles = {
                pod.uid: why for (pod, _), why in zip(due, troubles, strict=True) if why
            }
            if not self._troubles:
                backoff.reset()
                asyncio.get_running_loop().call_later(_ECHO_SECONDS, self._woken.set)
                continue
            await asyncio.sleep(backoff.next())
            self._woken.set()

    def _is_due(self, pod: Pod, mark: Mark, now: float) -> bool:
        written, at = self._written.get(pod.uid, (None, now))
        return written != mark or now - at >= _ECHO_SECONDS

    async def _mark(self, pod: Pod, mark: Mark) -> str:
        """Mark a pod as it isn't marked yet; why that failed, or nothing."""
        annotations: dict[str, str | None] = {}
        # What may be on its way is written over.
        said = self._written.get(pod.uid, (Mark.of(pod), 0.0))[0]
        if mark.at != pod.captured_at or mark.at != said.at:
            annotations[CAPTURED_ANNOTATION] = "true" if mark.at is not None else None
            annotations[CAPTURED_AT_ANNOTATION] = ",".join(mark.at or ()) or None
        if mark.plaintext != pod.plaintext or mark.plaintext != said.plaintext:
            annotations[PLAINTEXT_ANNOTATION] = str(mark.plaintext) or None
        change = {"metadata": {"uid": pod.uid, "annotations": annotations}}
        try:
            await self._client.patch(RAW_POD, pod.name, change, pod.namespace)
        except TrothError as error:
            if _is_of_another(error):
                return ""  # the watch will tell that the pod is gone
            why = str(error)
            if isinstance(error, DeniedError):
                why += f"; let the annotations {', '.join(_ANNOTATIONS)} pass"
            _log.warning("a pod could not be marked", pod=str(pod), reason=why)
            return why
        self._written[pod.uid] = (mark, asyncio.get_running_loop().time())
        _log.info(
            "marked a pod",
            pod=str(pod),
            captured=mark.at is not None,
            plaintext=str(mark.plaintext),
        )
        return ""


def _is_of_another(error: TrothError) -> bool:
    """Whether there is no such pod, or another one by its name."""
    match error:
        case InvalidError():
            return "metadata.uid" in error.fields
        case ConflictError():  # or somebody else writes to it at the same time
            return "uid" in error.reason.lower()
    return isinstance(error, NotFoundError)
