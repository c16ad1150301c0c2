"""Answers CertificateSigningRequests: approves and signs, or denies with reason and Event."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from lightkube.core.exceptions import ApiError
from lightkube.models.certificates_v1 import (
    CertificateSigningRequestCondition,
    CertificateSigningRequestStatus,
)
from lightkube.models.core_v1 import ObjectReference
from lightkube.resources.certificates_v1 import (
    CertificateSigningRequest,
    CertificateSigningRequestApproval,
)
from lightkube.resources.certificates_v1 import (
    CertificateSigningRequestStatus as StatusSubresource,
)
from lightkube.resources.core_v1 import Pod

from troth._contract import POD_NAME_ATTRIBUTE
from troth.controller.events import EventType
from troth.controller.signing import Claim, Refusal, awaits_answer, examine, has_condition, judge
from troth.errors import TrothError
from troth.kube.reflector import ANY_VERSION, Listed
from troth.kube.resource import Resource, model_reader
from troth.kube.typed import api_errors, is_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lightkube import AsyncClient

    from troth.controller.events import Events
    from troth.controller.signing import SigningRules
    from troth.identity.authority import CertificateAuthority
    from troth.kube.client import ApiServer

_log = structlog.get_logger(__name__)

_PERMITTED = "PodOnNode"
_AT_ONCE = 16
_FIRST_RETRY = 1.0
_LONGEST_RETRY = 30.0


class Signer:
    """Answers the requests that it is shown.

    Args:
        client: Of the API server.
        server: The same, for lists.
        rules: Who may ask, and for what.
        authority: The one that signs now; None while there is none.
        events: Where denials are told.
        on_answer: Hears what each request got, ``signed`` or ``denied``, and the reason.
    """

    def __init__(
        self,
        client: AsyncClient,
        server: ApiServer,
        rules: SigningRules,
        *,
        authority: Callable[[], CertificateAuthority | None],
        events: Events,
        on_answer: Callable[[str, str], None],
    ) -> None:
        self._client = client
        self._server = server
        self._rules = rules
        self._authority = authority
        self._events = events
        self._on_answer = on_answer
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._begun: dict[str, asyncio.Task[None]] = {}

    def show(self, requests: Iterable[CertificateSigningRequest]) -> None:
        """Answer what awaits an answer among all the requests that there are.

        A request is worked on once, whatever is shown meanwhile; after an error it is tried again.
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
        """Stop; what is under way is left to the next leader."""
        tasks = list(self._begun.values())
        self._begun.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work_on(self, csr: CertificateSigningRequest) -> None:
        pause = _FIRST_RETRY
        latest: CertificateSigningRequest | None = csr
        while latest is not None and awaits_answer(latest):
            try:
                async with self._slots:
                    await self._answer(latest)
            except TrothError as error:
                _log.warning("a request was not answered", csr=_name(csr), reason=str(error))
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_RETRY)
            latest = await self._fetch(latest)

    async def _fetch(self, csr: CertificateSigningRequest) -> CertificateSigningRequest | None:
        """The request as it stands now; None if it is gone, and as it was if nobody answers."""
        try:
            with api_errors(f"get CertificateSigningRequest {_name(csr)}"):
                return await self._client.get(CertificateSigningRequest, _name(csr))
        except TrothError as error:
            if isinstance(error.__cause__, ApiError) and is_missing(error.__cause__):
                return None
            return csr

    async def _answer(self, csr: CertificateSigningRequest) -> None:
        verdict = examine(csr, self._rules)
        if isinstance(verdict, Claim):
            verdict = await self._judged(verdict) or verdict
        with api_errors(f"answer CertificateSigningRequest {_name(csr)}"):
            try:
                if isinstance(verdict, Refusal):
                    await self._refuse(csr, verdict)
                else:
                    await self._sign(csr, verdict)
            except ApiError as error:
                if is_missing(error):
                    return  # its maker gave up
                raise

    async def _judged(self, claim: Claim) -> Refusal | None:
        """Judge a claim by the pods that the API server has stored at this moment.

        They are asked for each time, rather than watched: a pod that is just there must not be
        denied, one that is gone must not be granted, and the controller needs no memory of all
        pods. Which one to look at the API server knows from its cache, at little cost. Reading all
        of a namespace from its storage is for claims that nothing seems to support.
        """
        cached = await self._cached_pods(claim)
        seen = next((pod for pod in cached if judge(claim, [pod]) is None), None)
        if seen is not None and seen.metadata is not None:
            stored = await self._stored_pods(claim, {"metadata.name": seen.metadata.name or ""})
            if judge(claim, stored) is None:
                return None
        return judge(claim, await self._stored_pods(claim, {}))

    async def _cached_pods(self, claim: Claim) -> Iterable[Pod]:
        resource = Resource(
            plural="pods",
            namespace=claim.namespace,
            read=model_reader(Pod),
            field_selector=f"spec.nodeName={claim.node}",
            is_bulk=True,
        )
        listed = await self._server.list(resource, since=ANY_VERSION)
        items = listed.items if isinstance(listed, Listed) else ()
        return [item.value for item in items if item.value is not None]

    async def _stored_pods(self, claim: Claim, fields: dict[str, str]) -> list[Pod]:
        with api_errors(f"list pods in {claim.namespace}"):
            found = self._client.list(
                Pod, namespace=claim.namespace, fields={"spec.nodeName": claim.node, **fields}
            )
            return [pod async for pod in found]

    async def _sign(self, csr: CertificateSigningRequest, claim: Claim) -> None:
        authority = self._authority()
        if authority is None:
            return
        # Before it is approved, so that an authority that can't sign leaves no trace of a promise.
        issued = authority.sign(claim.request, now=datetime.now(UTC), lifetime=claim.lifetime)
        approved: CertificateSigningRequest | CertificateSigningRequestApproval = csr
        if not has_condition(csr, "Approved"):
            approved = await self._client.replace(
                _approval(
                    csr,
                    "Approved",
                    reason=_PERMITTED,
                    message=f"node {claim.node} has a pod of the service account "
                    f"{claim.namespace}/{claim.service_account}",
                ),
                _name(csr),
            )
        certificate = base64.b64encode(issued.chain).decode()
        status = CertificateSigningRequestStatus(
            certificate=certificate,
            conditions=approved.status.conditions if approved.status else None,
        )
        await self._client.replace(
            StatusSubresource(metadata=approved.metadata, spec=csr.spec, status=status),
            _name(csr),
        )
        self._on_answer("signed", _PERMITTED)
        _log.info(
            "signed",
            csr=_name(csr),
            identity=str(issued.spiffe_id),
            node=claim.node,
            serial=f"{issued.serial:x}",
            until=f"{issued.not_after:%FT%TZ}",
        )

    async def _refuse(self, csr: CertificateSigningRequest, refusal: Refusal) -> None:
        if has_condition(csr, "Approved"):
            # Whoever approved it did so for another signer's rules; it can't be denied any more.
            condition = _condition("Failed", refusal.reason, refusal.message)
            status = _with_condition(csr, condition)
            await self._client.replace(
                StatusSubresource(metadata=csr.metadata, spec=csr.spec, status=status),
                _name(csr),
            )
        else:
            await self._client.replace(
                _approval(csr, "Denied", reason=refusal.reason, message=refusal.message),
                _name(csr),
            )
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

    def _requester(self, csr: CertificateSigningRequest) -> ObjectReference | None:
        """The node agent's pod, if it was one that asked."""
        pods = (csr.spec.extra or {}).get(POD_NAME_ATTRIBUTE) or []
        if csr.spec.username != self._rules.username or len(pods) != 1:
            return None
        return ObjectReference(
            apiVersion="v1", kind="Pod", namespace=self._rules.namespace, name=pods[0]
        )


def _tell_bug(task: asyncio.Task[None]) -> None:
    """One request that hits a bug of ours keeps no other from being answered."""
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


def _approval(
    csr: CertificateSigningRequest, kind: str, *, reason: str, message: str
) -> CertificateSigningRequestApproval:
    return CertificateSigningRequestApproval(
        metadata=csr.metadata,
        spec=csr.spec,
        status=_with_condition(csr, _condition(kind, reason, message)),
    )
