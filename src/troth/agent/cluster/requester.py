"""The node's signer in a cluster: the controller, asked by CertificateSigningRequests.

The private key stays here; only the request travels, and the certificate comes back, through the
API server, which authenticates both ends.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import secrets
from typing import TYPE_CHECKING

import structlog
from lightkube.models.certificates_v1 import CertificateSigningRequestSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.certificates_v1 import CertificateSigningRequest

from troth.agent.certificates import Signed
from troth.cluster.contract import (
    CONTROLLER,
    CSR_USAGES,
    SIGNER_NAME,
    SIGNING_ROOT_ANNOTATION,
    TRUST_BUNDLE,
    TRUST_BUNDLE_KEY,
)
from troth.errors import InputError, PeerError, TrothError
from troth.identity.bundle import TrustBundle
from troth.kube.client import ApiClient
from troth.kube.follow import Followed
from troth.kube.kinds import CONFIG_MAP, CSR
from troth.mesh.world import DEFAULT_HOME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import timedelta

    from lightkube import SingleConfig

    from troth.identity.rotation import SigningRequest
    from troth.identity.spiffe import TrustDomain

_log = structlog.get_logger(__name__)

THE_CONTROLLER = "the troth controller"
_AGENT_LABEL = "troth.dev/agent"
_FIELD_MANAGER = "troth-node"
_GENERATE_NAME = "troth-workload-"
_ANSWER_SECONDS = 25.0
_FAREWELL_SECONDS = 5.0

_REST_SECONDS = 3.0
"""How long nobody has asked for anything when answered requests are deleted.

At a start pods wait for what the agent and the API server do just after the last certificate.
"""

_AT_ONCE = 4
"""Requests to the API server; more would only make more connections."""


class CsrRequester:
    """Asks the controller for certificates, and knows the roots to believe.

    Implements `CertificateSource`. Needs the rights to create, list, watch and delete
    CertificateSigningRequests, and to list and watch the trust bundle in ``namespace``.

    Args:
        config: How to reach the API server, and as whom: the node agent, with the token that the
            kubelet projected into its pod.
        trust_domain: Whose roots the trust bundle has.
        namespace: The controller's.
        lifetime: To ask for; the controller's own choice if there is none.
        on_bundle: Called when there are other roots to believe, or another one signs.
        answer_seconds: How long to wait for the controller's answer.
    """

    def __init__(
        self,
        config: SingleConfig,
        *,
        trust_domain: TrustDomain,
        namespace: str = DEFAULT_HOME,
        lifetime: timedelta | None = None,
        on_bundle: Callable[[], None] = lambda: None,
        answer_seconds: float = _ANSWER_SECONDS,
    ) -> None:
        self._client = ApiClient(config, field_manager=_FIELD_MANAGER)
        self._trust_domain = trust_domain
        self._namespace = namespace
        self._lifetime = lifetime
        self._on_bundle = on_bundle
        self._answers = Answers(self._client, namespace=namespace, seconds=answer_seconds)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._done: asyncio.Queue[str] = asyncio.Queue()
        self._asking = 0
        self._idle = asyncio.Event()
        self._idle_since = 0.0
        self._bundle: TrustBundle | None = None
        self._known = asyncio.Event()
        self._published = Followed(
            self._client,
            CONFIG_MAP.objects(namespace=namespace, field_selector=f"metadata.name={TRUST_BUNDLE}"),
            on_change=self._adopt,
        )
        self.signing_root = ""
        """Fingerprint of the root that new certificates chain to; empty while unknown.

        Certificates of another root are to be renewed soon.
        """

    @property
    def bundle(self) -> TrustBundle:
        """The roots in force.

        Raises:
            PeerError: They are not known yet; `ready` waits for them.
        """
        if self._bundle is None:
            raise PeerError(
                THE_CONTROLLER,
                f"has not published ConfigMap {self._namespace}/{TRUST_BUNDLE} yet",
                "see that it is running, and what its log says",
            )
        return self._bundle

    @property
    def error(self) -> TrothError | None:
        """What keeps the roots from being up to date."""
        return self._published.error

    async def ready(self) -> None:
        """Wait until the roots are known."""
        await self._known.wait()

    async def run(self) -> None:
        """Keep the roots up to date and clear requests away, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._published.run())
                tasks.create_task(self._clear_away())
        finally:
            await self._client.aclose()

    async def sign(self, request: SigningRequest) -> Signed:
        """Have a key certified for an identity.

        Raises:
            PeerError: The controller denied it, with its reason, or did not answer in time; or
                the API server can't be reached.
            EnvironmentLackError: The node agent may not make CertificateSigningRequests.
        """
        with self._busy():
            name = await self._create(request)
            try:
                chain = await self._answers.to(name)
            except BaseException:
                await self._delete(name)  # at once: a controller that comes back need not see it
                raise
            self._done.put_nowait(name)
        return Signed(chain, self.bundle)

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        self._asking += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._asking -= 1
            if not self._asking:
                self._idle_since = asyncio.get_running_loop().time()
                self._idle.set()

    async def _create(self, request: SigningRequest) -> str:
        csr = CertificateSigningRequest(
            metadata=ObjectMeta(generateName=_GENERATE_NAME, labels=dict(self._answers.labels)),
            spec=CertificateSigningRequestSpec(
                request=base64.b64encode(request.csr).decode(),
                signerName=SIGNER_NAME,
                usages=list(CSR_USAGES),
                expirationSeconds=int(self._lifetime.total_seconds()) if self._lifetime else None,
            ),
        )
        async with self._slots:
            created = await self._client.create(CSR, csr)
        return (created.metadata.name if created.metadata else None) or ""

    async def _clear_away(self) -> None:
        """Delete what is answered, in times of rest."""
        while True:
            name = await self._done.get()
            await self._rested()
            await self._delete(name)

    async def _rested(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await self._idle.wait()
            if (rest := self._idle_since + _REST_SECONDS - now()) <= 0:
                return
            await asyncio.sleep(rest)

    async def _delete(self, name: str) -> None:
        """Clear away; what stays is removed by the cluster's own cleaner within the hour."""
        with contextlib.suppress(TrothError, TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS), self._slots:
                await self._client.delete(CSR, name)

    def _adopt(self) -> None:
        """Take the published roots, unless there is something wrong with them."""
        published = self._published.objects.get(f"{self._namespace}/{TRUST_BUNDLE}")
        if published is None:
            return  # gone, or not there yet: what was believed stays
        subject = f"ConfigMap {self._namespace}/{TRUST_BUNDLE}"
        try:
            bundle = TrustBundle.parse(
                self._trust_domain,
                (published.data or {}).get(TRUST_BUNDLE_KEY, "").encode(),
                subject=subject,
                path=f"data[{TRUST_BUNDLE_KEY}]",
            )
        except InputError as error:
            _log.error("the trust bundle cannot be used", reason=str(error))
            return
        annotations = (published.metadata.annotations if published.metadata else None) or {}
        signing_root = annotations.get(SIGNING_ROOT_ANNOTATION, "")
        if (bundle, signing_root) == (self._bundle, self.signing_root):
            return
        self._bundle, self.signing_root = bundle, signing_root
        _log.info("trust bundle", roots=len(bundle.certificates))
        self._known.set()
        self._on_bundle()


class Answers:
    """Waits for the controller's answers, all of them heard of by one watch.

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
