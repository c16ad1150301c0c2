"""`troth controller`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from troth.cli.options import HomeOption, RootNamespaceOption, TrustDomainOption
from troth.cluster.contract import LONGEST_LIFETIME, NODE_SERVICE_ACCOUNT, SHORTEST_LIFETIME
from troth.identity.spiffe import DEFAULT_TRUST_DOMAIN, TrustDomain
from troth.mesh.world import DEFAULT_HOME, DEFAULT_ROOT_NAMESPACE
from troth.sockets import LISTEN, ListenAddress


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("controller")(controller)


def controller(
    namespace: HomeOption = DEFAULT_HOME,
    trust_domain: TrustDomainOption = DEFAULT_TRUST_DOMAIN,
    root_namespace: RootNamespaceOption = DEFAULT_ROOT_NAMESPACE,
    node_service_account: Annotated[
        str, typer.Option(help="The node agents' service account.")
    ] = NODE_SERVICE_ACCOUNT,
    certificate_lifetime: Annotated[
        int,
        typer.Option(
            help="Life of a workload's certificate, in seconds.",
            min=int(SHORTEST_LIFETIME.total_seconds()),
            max=int(LONGEST_LIFETIME.total_seconds()),
        ),
    ] = 12 * 3600,
    health_port: Annotated[
        int, typer.Option(help="Port of /healthz and /readyz.", min=0, max=65535)
    ] = 8086,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar=LISTEN,
            help="Show Prometheus the controller's metrics at /metrics there, to anybody.",
        ),
    ] = None,
) -> int:
    """Run a cluster's controller: certificates for node agents, root, policies' status.

    For a Deployment of two replicas; one of them leads. It ends on SIGTERM.
    """
    # Its client of the Kubernetes API takes long to load, which other commands needn't wait for.
    from troth.controller.run import run_controller  # noqa: PLC0415
    from troth.controller.signing import SigningRules  # noqa: PLC0415
    from troth.controller.work import ControllerSettings  # noqa: PLC0415

    return run_controller(
        ControllerSettings(
            rules=SigningRules(
                trust_domain=TrustDomain.parse(trust_domain),
                namespace=namespace,
                service_account=node_service_account,
                lifetime=timedelta(seconds=certificate_lifetime),
            ),
            namespace=namespace,
            root_namespace=root_namespace,
            health_port=health_port,
            metrics=ListenAddress.parse(metrics, option="--metrics") if metrics else None,
        )
    )
