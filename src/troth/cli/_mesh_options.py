"""The options of whatever runs a mesh or a part of it: all parts must be told the same."""

from __future__ import annotations

from typing import Annotated

import typer

HomeOption = Annotated[
    str, typer.Option("--namespace", help="The namespace of the controller and the node agents.")
]
TrustDomainOption = Annotated[str, typer.Option(help="The trust domain of every identity.")]
RootNamespaceOption = Annotated[
    str, typer.Option(help="Where policies without a selector are mesh-wide.")
]
