"""Answers CertificateSigningRequests: approves and signs, or denies with reason and Event."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import structlog
from lightkube.models.certificates_v1 import (
    CertificateSigningRequestCondition,
    CertificateSigningRequestStatus,
)
from lightkube.models.core_v1 import ObjectReference
from lightkube.resources.certificates_v1 import CertificateSigningRequest

from troth.cluster.contract import POD_NAME_ATTRIBUTE
from troth.cluster.events import EventType
from troth.controller.signing import Claim, Denial, awaits_answer, examine, has_condition, judge
from troth.errors import TrothError
from troth.kube.errors import NotFoundError
from troth.kube.kinds import CSR, POD
from troth.kube.reflector import ANY_VERSION
from troth.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lightkube.resources.core_v1 import Pod

    from troth.cluster.events import Events
    from troth.controller.signing import SigningRules
    from troth.identity.authority import CertificateAuthority
    from troth.kube.client import ApiClient
    from troth.kube.resource import Resource

_log = structlog.get_logger(__name__)

_PERMITTED = "PodOnNode"
_AT_ONCE = 16
_FIRST_RETRY = 1.0
_LONGEST_RETRY = 30.0


class Signer:
    """Answers the requests passed to `show`.

    Args:
        client: The API server's.
        rules: Who may ask, and for what.
        authority: The one that signs now; None while there is none.
        events: Gets Events about denials.
        on_answer: Called with each answer, ``signed`` or ``denied``, and the reason.
    """

    def __init__(
        self,
        client: ApiClient,
        rules: SigningRules,
        *,
        authority: Callable[[], CertificateAuthority | None],
        events: Events,
        on_answer: Callable[[str, str], None],
    ) -> None:
        self._client = client
        self._rules = rules
        self._authority = authority
        self._events = events
        self._on_answer = on_answer
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._begun: dict[str, asyncio.Task[None]] = {}

    def show(self, requests: Iterable[CertificateSigningRequest]) -> None:
        """Answer the pending ones of all requests.

        A request is processed once, whatever is shown meanwhile; after an error it is retried.
        """
        present = {csr.metadata.uid or "": csr for csr in requests if csr.metadata}
        for gone in self._begun.keys() - present.keys():
            self._begun.pop(gone).cancel()
        if self._authority() is None:
            return
        for uid, csr in present.items():
            if uid not in self._begun and awaits_answer(csr):
                self._begun[uid] = task = asyncio.create_task(self._work_on(csr))
                task.add_done_callback(_tell_bug)

    async def close(self) -> None:
        """Stop; pending requests are left to the next leader."""
        tasks = list(self._begun.values())
        self._begun.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work_on(self, csr: CertificateSigningRequest) -> None:
        backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        latest: CertificateSigningRequest | None = csr
        while latest is not None and awaits_answer(latest):
            try:
                async with self._slots:
                    await self._answer(latest)
            except TrothError as error:
                _log.warning("a request was not answered", csr=_name(csr), reason=str(error))
            else:
                return
            await asyncio.sleep(backoff.next())
            latest = await self._fetch(latest)

    async def _fetch(self, csr: CertificateSigningRequest) -> CertificateSigningRequest | None:
        """The current request; None if it is gone, unchanged if the API server doesn't answer."""
        try:
            return await self._client.get(CSR, _name(csr))
        except NotFoundError:
            return None
        except TrothError:
            return csr

    async def _answer(self, csr: CertificateSigningRequest) -> None:
        verdict = examine(csr, self._rules)
        if isinstance(verdict, Claim):
            verdict = await self._judged(verdict) or verdict
        with contextlib.suppress(NotFoundError):  # the requester gave up
            if isinstance(verdict, Denial):
                await self._refuse(csr, verdict)
            else:
                await self._sign(csr, verdict)

    async def _judged(self, claim: Claim) -> Denial | None:
        """Judge a claim by the pods that the API server has stored at this moment.

        They are read each time rather than watched: a new pod must not be denied, a deleted one
        must not be granted, and the controller needs no memory for all pods. The API server's cache
        finds a candidate at little cost. Only claims without a candidate cause a read of a whole
        namespace from storage.
        """
        cached = await self._cached_pods(claim)
        seen = next((pod for pod in cached if judge(claim, [pod]) is None), None)
        if seen is not None and seen.metadata is not None:
            stored = await self._stored_pods(claim, seen.metadata.name or "")
            if judge(claim, stored) is None:
                return None
        return judge(claim, await self._stored_pods(claim))

    async def _cached_pods(self, claim: Claim) -> Iterable[Pod]:
        try:
            listed = await self._client.list(_pods(claim), since=ANY_VERSION)
        except TrothError:
            return ()
        return [item.value for item in listed.items if item.value is not None]

    async def _stored_pods(self, claim: Claim, name: str = "") -> list[Pod]:
        listed = await self._client.list(_pods(claim, name))
        return [item.value for item in listed.items if item.value is not None]

    async def _sign(self, csr: CertificateSigningRequest, claim: Claim) -> None:
        authority = self._authority()
        if authority is None:
            return
        # Sign before approving, so that an authority that can't sign doesn't leave an approval.
        issued = authority.sign(claim.request, now=datetime.now(UTC), lifetime=claim.lifetime)
        approved = csr
        if not has_condition(csr, "Approved"):
            why = f"{claim.namespace}/{claim.service_account}"
            condition = _condition(
                "Approved",
                _PERMITTED,
                f"node {claim.node} has a pod of the service account {why}",
            )
            approved = await self._write(csr, _with_condition(csr, condition), "approval")
        certificate = base64.b64encode(issued.chain).decode()
        status = CertificateSigningRequestStatus(
            certificate=certificate,
            conditions=approved.status.conditions if approved.status else None,
        )
        await self._write(approved, status, "status")
        self._on_answer("signed", _PERMITTED)
        _log.info(
            "signed",
            csr=_name(csr),
            identity=str(issued.spiffe_id),
            node=claim.node,
            serial=f"{issued.serial:x}",
            until=f"{issued.not_after:%FT%TZ}",
        )

    async def _refuse(self, csr: CertificateSigningRequest, refusal: Denial) -> None:
        if has_condition(csr, "Approved"):
            # Somebody else approved it, so it can't be denied any more.
            condition = _condition("Failed", refusal.reason, refusal.message)
            await self._write(csr, _with_condition(csr, condition), "status")
        else:
            condition = _condition("Denied", refusal.reason, refusal.message)
            await self._write(csr, _with_condition(csr, condition), "approval")
        self._on_answer("denied", refusal.reason)
        _log.warning(
            "denied",
            csr=_name(csr),
            requester=csr.spec.username,
            reason=refusal.reason,
            message=refusal.message,
        )
        await self._events.record(
            ObjectReference(
                apiVersion="certificates.k8s.io/v1",
                kind="CertificateSigningRequest",
                name=_name(csr),
                uid=csr.metadata.uid if csr.metadata else None,
            ),
            EventType.WARNING,
            refusal.reason,
            refusal.message,
            related=self._requester(csr),
        )

    async def _write(
        self,
        csr: CertificateSigningRequest,
        status: CertificateSigningRequestStatus,
        part: Literal["approval", "status"],
    ) -> CertificateSigningRequest:
        """Write conditions or a certificate, replacing the version that was read."""
        after = CertificateSigningRequest(metadata=csr.metadata, spec=csr.spec, status=status)
        return await self._client.replace(CSR, after, _name(csr), part=part)

    def _requester(self, csr: CertificateSigningRequest) -> ObjectReference | None:
        """The requesting node agent's pod, if the requester is one."""
        pods = (csr.spec.extra or {}).get(POD_NAME_ATTRIBUTE) or []
        if csr.spec.username != self._rules.username or len(pods) != 1:
            return None
        return ObjectReference(
            apiVersion="v1", kind="Pod", namespace=self._rules.namespace, name=pods[0]
        )


def _tell_bug(task: asyncio.Task[None]) -> None:
    """Log a bug of ours in one request; the others are still answered."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a request was not answered, by a bug", exc_info=error)


def _name(csr: CertificateSigningRequest) -> str:
    return (csr.metadata.name if csr.metadata else None) or ""


def _condition(kind: str, reason: str, message: str) -> CertificateSigningRequestCondition:
    return CertificateSigningRequestCondition(
        type=kind,
        status="True",
        reason=reason,
        message=message,
        lastUpdateTime=datetime.now(UTC).replace(microsecond=0),
    )


def _with_condition(
    csr: CertificateSigningRequest, condition: CertificateSigningRequestCondition
) -> CertificateSigningRequestStatus:
    present = (csr.status.conditions if csr.status else None) or []
    return CertificateSigningRequestStatus(conditions=[*present, condition])


def _pods(claim: Claim, name: str = "") -> Resource[Pod]:
    """The pods of the claim's namespace on its node, or the one with that name."""
    named = f",metadata.name={name}" if name else ""
    return POD.objects(
        namespace=claim.namespace,
        field_selector=f"spec.nodeName={claim.node}{named}",
        is_bulk=True,
    )
