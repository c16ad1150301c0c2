"""The answers to a node agent's certificate requests, all of them heard of by one watch."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from typing import TYPE_CHECKING

from troth.cluster.contract import CONTROLLER
from troth.errors import PeerError
from troth.kube.follow import Followed
from troth.kube.kinds import CSR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightkube.resources.certificates_v1 import CertificateSigningRequest

    from troth.kube.client import ApiClient

THE_CONTROLLER = "the troth controller"
_AGENT_LABEL = "troth.dev/agent"


class Answers:
    """Waits for the controller's answers.

    An agent's requests have a label of its own, so that one watch hears of all of them and of no
    others: a node that starts with 50 service accounts would otherwise make a connection for each.
    The watch lasts as long as somebody waits.

    Args:
        server: Where the requests are.
        namespace: The controller's, for messages.
        seconds: How long to wait for an answer.

    Attributes:
        labels: To be put on every request.
    """

    def __init__(self, server: ApiClient, *, namespace: str, seconds: float) -> None:
        self.labels: Mapping[str, str] = {_AGENT_LABEL: secrets.token_hex(8)}
        self._server = server
        self._namespace = namespace
        self._seconds = seconds
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._seen: set[str] = set()
        self._requests = self._followed()
        self._following: asyncio.Task[None] | None = None

    async def to(self, name: str) -> bytes:
        """Wait for the certificate that a request is answered with.

        Args:
            name: The request's.

        Raises:
            PeerError: The answer is no, or there is none in time; or nobody can be asked.
            EnvironmentLackError: Requests may not be watched.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[name] = answer
        try:
            self._follow()
            self._look()
            async with asyncio.timeout(self._seconds):
                return await answer
        except TimeoutError:
            raise self._requests.error or PeerError(
                THE_CONTROLLER,
                f"did not answer CertificateSigningRequest {name} in {self._seconds:g} s",
                f"see that it is running: kubectl -n {self._namespace} get lease {CONTROLLER}",
            ) from None
        finally:
            del self._waiting[name]
            self._seen.discard(name)
            await self._rest()

    def _followed(self) -> Followed[CertificateSigningRequest]:
        ((label, value),) = self.labels.items()
        return Followed(
            self._server,
            CSR.objects(label_selector=f"{label}={value}"),
            on_change=self._look,
            jitter=lambda: 0.0,  # somebody is waiting
        )

    def _follow(self) -> None:
        if self._following is None:
            self._requests = self._followed()
            self._following = asyncio.create_task(self._requests.run())

    async def _rest(self) -> None:
        if self._waiting or self._following is None:
            return
        following, self._following = self._following, None
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    def _look(self) -> None:
        requests = self._requests.objects
        for name, answer in self._waiting.items():
            request = requests.get(name)
            if answer.done() or (request is None and name not in self._seen):
                continue
            self._seen.add(name)
            try:
                chain = certificate(request)
            except PeerError as error:
                answer.set_exception(error)
            else:
                if chain is not None:
                    answer.set_result(chain)


def certificate(csr: CertificateSigningRequest | None) -> bytes | None:
    """The chain in an answered request; None while there is no answer.

    Args:
        csr: The request; None if it has gone.

    Raises:
        PeerError: The answer is no.
    """
    if csr is None:
        raise PeerError("the Kubernetes API", "no longer has the CertificateSigningRequest")
    status = csr.status
    for condition in (status.conditions if status else None) or ():
        if condition.type in {"Denied", "Failed"}:
            reason = condition.reason or condition.type
            raise PeerError(
                THE_CONTROLLER,
                f"{condition.type.lower()} the request ({reason}): {condition.message}",
            )
    if status is None or not status.certificate:
        return None
    try:
        return base64.b64decode(status.certificate, validate=True)
    except binascii.Error as error:
        raise PeerError(THE_CONTROLLER, "sent a certificate that is not base64") from error
