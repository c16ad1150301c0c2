"""The options of whatever runs a mesh or a part of it: all parts must be told the same."""

from __future__ import annotations

from typing import Annotated

import typer

from troth.sockets import LONGEST_KEEPALIVE_SECONDS, SHORTEST_KEEPALIVE_SECONDS

HomeOption = Annotated[
    str, typer.Option("--namespace", help="The namespace of the controller and the node agents.")
]
TrustDomainOption = Annotated[str, typer.Option(help="The trust domain of every identity.")]
RootNamespaceOption = Annotated[
    str, typer.Option(help="Where policies without a selector are mesh-wide.")
]
KeepaliveOption = Annotated[
    int,
    typer.Option(
        "--keepalive-seconds",
        help="Within what time it is noticed that the other end of a connection has vanished.",
        min=SHORTEST_KEEPALIVE_SECONDS,
        max=LONGEST_KEEPALIVE_SECONDS,
    ),
]
PodConnectionsOption = Annotated[
    int | None,
    typer.Option(
        "--max-connections-per-pod",
        help="How many connections one pod may have open at a time of each kind: that leave it, "
        "that come by the tunnel, and that come in plaintext. By default 4096, and never more than "
        "a quarter of what the limit on open files allows to all pods.",
        min=1,
    ),
]
