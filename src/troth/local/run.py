"""The mesh process inside its namespaces: wires the parts together and runs until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from troth.agent.agent import NodeAgent
from troth.agent.certificates import Signed
from troth.agent.proxy import NodePaths
from troth.control.state_dir import Settings, StateDirectory
from troth.errors import TrothError
from troth.http_server import metrics_pages, serving
from troth.identity.authority import CertificateAuthority
from troth.identity.spiffe import TrustDomain
from troth.local.addresses import SERVICE_RANGE_V4, SERVICE_RANGE_V6
from troth.local.hosts import HostDns, host_dns
from troth.local.init import ENDING
from troth.local.launch import hold_program
from troth.local.mesh import LocalMesh
from troth.local.nameserver import NameServer
from troth.local.network import Network
from troth.local.requests import Requests
from troth.local.sandbox import NODE_NAME
from troth.program import configure_logs, keep_private

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from troth.agent.metrics import NodeMetrics
    from troth.identity.bundle import TrustBundle
    from troth.identity.rotation import SigningRequest
    from troth.sockets import ListenAddress

_ABANDONED_SECONDS = 2.0
"""What pods get to end when the command that runs their mesh has been killed."""

_log = structlog.get_logger(__name__)


def run_mesh(path: Path) -> int:
    """Run the mesh of a state directory until SIGTERM, SIGINT or the end of standard input.

    Returns:
        The exit code: 0 after an ordinary stop, 1 when the mesh could not run.
    """
    configure_logs()
    _raise_file_limit()
    keep_private()
    state = StateDirectory(path)
    failures: list[BaseException] = []
    try:
        asyncio.run(_Mesh(state).run())
    except* TrothError as group:
        failures += group.exceptions
    for failure in failures:
        _log.error("the mesh cannot run", reason=str(failure))
    return 1 if failures else 0


class _Mesh:
    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._settings = state.read_settings()
        self._stop = asyncio.Event()
        self._mesh: LocalMesh | None = None

    async def run(self) -> None:
        self._stop_on_signals()
        with contextlib.suppress(OSError):  # then each launcher sees to it for itself
            hold_program()
        state, settings = self._state, self._settings
        state.netns.mkdir(mode=0o700, exist_ok=True)
        state.pods.mkdir(mode=0o700, exist_ok=True)
        network = Network()
        await network.start()
        authority = _authority(settings)
        signer = _OwnAuthority(authority, timedelta(seconds=settings.certificate_lifetime_seconds))
        metrics = _metrics() if settings.metrics else None
        agent = NodeAgent(
            node_name=NODE_NAME,
            paths=NodePaths(
                ads=state.ads,
                admin=state.admin,
                worker=state.worker,
                bootstrap=state.bootstrap,
                access_log=state.access_log,
                journal=state.journal,
            ),
            signer=signer,
            service_ranges=(str(SERVICE_RANGE_V4), str(SERVICE_RANGE_V6)),
            on_change=lambda: mesh.wake(),  # noqa: PLW0108 - it is made just below
            on_restored=lambda each: mesh.restored(each),  # noqa: PLW0108
            metrics=metrics,
            pod_connections=settings.pod_connections,
            keepalive_seconds=settings.keepalive_seconds,
        )
        host = host_dns if settings.uplink else HostDns
        name_server = NameServer(network.gateways, lambda: host().nameservers)
        mesh = LocalMesh(settings, state, network, agent, name_server=name_server, host=host)
        self._mesh = mesh
        requests = Requests(mesh, authority=authority, stop=self._end)
        async with (
            name_server.serving(),
            _background(agent.run()) as agent_ended,
            _metrics_page(settings.metrics, metrics),
            requests.server(state.control).serving(),
            _background(mesh.run()) as mesh_ended,
        ):
            stopped = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait(
                {stopped, agent_ended, mesh_ended}, return_when=asyncio.FIRST_COMPLETED
            )
            stopped.cancel()
        await network.stop()

    def _stop_on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in ENDING:
            loop.add_signal_handler(number, self._end_by_signal)
        if not os.path.sameopenfile(0, os.open(os.devnull, os.O_RDONLY)):
            # A pipe from the command that started us in the foreground: we end with it.
            loop.add_reader(0, self._end_abandoned)

    def _end_by_signal(self) -> None:
        """The first one ends the mesh, the second one at once."""
        self._end(0.0 if self._stop.is_set() else None)

    def _end_abandoned(self) -> None:
        """Nobody is there any more to be shown what is waited for."""
        asyncio.get_running_loop().remove_reader(0)
        self._end(_ABANDONED_SECONDS)

    def _end(self, grace: float | None) -> None:
        """End the mesh; argument as of `StopRequest`."""
        if grace is not None and self._mesh is not None:
            self._mesh.hurry(grace)
        self._stop.set()


class _OwnAuthority:
    """The node agent's signer when the authority is in the same process."""

    def __init__(self, authority: CertificateAuthority, lifetime: timedelta) -> None:
        self._authority = authority
        self._lifetime = lifetime

    @property
    def bundle(self) -> TrustBundle:
        return self._authority.trust_bundle

    async def sign(self, request: SigningRequest) -> Signed:
        issued = self._authority.sign(
            request.csr,
            now=datetime.now(UTC),
            lifetime=self._lifetime,
            expected=request.spiffe_id,
        )
        return Signed(issued.chain, self.bundle)


def _authority(settings: Settings) -> CertificateAuthority:
    trust_domain = TrustDomain.parse(settings.trust_domain)
    now = datetime.now(UTC)
    files = settings.authority
    if files is None:
        return CertificateAuthority.self_signed(trust_domain, now=now)

    def read(path: str) -> bytes:
        return Path(path).read_bytes() if path else b""

    return CertificateAuthority.from_pem(
        trust_domain=trust_domain,
        certificate=read(files.certificate),
        key=read(files.key),
        chain=read(files.chain),
        root=read(files.root),
        now=now,
    )


@contextlib.asynccontextmanager
async def _background(work: object) -> AsyncIterator[asyncio.Task[None]]:
    """Run ``work`` beside the block; cancel it at the end, and raise what it raised."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _metrics() -> NodeMetrics:
    from troth.agent.metrics import NodeMetrics  # noqa: PLC0415 - slow to import, seldom wanted

    return NodeMetrics()


@contextlib.asynccontextmanager
async def _metrics_page(
    address: ListenAddress | None, metrics: NodeMetrics | None
) -> AsyncIterator[None]:
    if address is None or metrics is None:
        yield
        return
    async with serving(address, metrics_pages(metrics.page)):
        yield


def _raise_file_limit() -> None:
    # A proxied connection takes four descriptors; the soft limit is often 1,024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
