"""`troth trace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from troth.cli.asked import asked_mesh, full_name
from troth.cli.console import Output, OutputOption, print_json, print_report
from troth.cli.options import (
    TIMEOUT_SECONDS,
    TROTH_NAMESPACE,
    AskedNamespaceOption,
    ContextOption,
    KubeconfigOption,
    TimeoutOption,
    TrothNamespaceOption,
)
from troth.errors import InputError, Problem
from troth.mesh.target import target_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.connect.report import TraceQuestion

_LAST_PORT = 65535


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("trace")(trace)


def trace(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FROM", help="Who connects: NAMESPACE/POD, or NAMESPACE/DEPLOYMENT for one."
        ),
    ],
    destination: Annotated[
        str,
        typer.Argument(
            metavar="TO:PORT",
            help="To whom: NAMESPACE/NAME of a Service, pod or Deployment, or an IP; IPv6 in [].",
        ),
    ],
    plaintext: Annotated[
        bool,
        typer.Option("--plaintext", help="Connect past the tunnel, as a pod outside the mesh."),
    ] = False,
    no_certificate: Annotated[
        bool, typer.Option("--no-certificate", help="Show no certificate in the handshake.")
    ] = False,
    expired: Annotated[
        bool, typer.Option("--expired", help="Show a certificate that has expired.")
    ] = False,
    foreign_ca: Annotated[
        bool, typer.Option("--foreign-ca", help="Show a certificate of another CA.")
    ] = False,
    claim: Annotated[
        str | None,
        typer.Option(
            metavar="NAMESPACE/NAME",
            help="Whose identity that certificate claims: a pod's, or in a cluster a service "
            "account's. By default FROM's own.",
        ),
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: AskedNamespaceOption = None,
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    troth_namespace: TrothNamespaceOption = TROTH_NAMESPACE,
    output: OutputOption = Output.TEXT,
) -> int:
    """Make one connection and trace one handshake: what both ends decide, and where it stops.

    The connection is made from FROM's network namespace, as its app would. The handshake is made
    beside it, with the pod's own certificate, or with what an impostor would show. The exit code
    is 0 when it was let in, and 1 when it was refused or failed.
    """
    from troth.cli.render.trace import render_trace  # noqa: PLC0415 - for a trace alone

    flags = {
        "--plaintext": plaintext,
        "--no-certificate": no_certificate,
        "--expired": expired,
        "--foreign-ca": foreign_ca,
    }
    given = [flag for flag, is_given in flags.items() if is_given]
    mesh = asked_mesh(
        ctx,
        context=context,
        kubeconfig=kubeconfig,
        namespace=namespace,
        home=troth_namespace,
        seconds=timeout,
    )
    if expired and not mesh.has_authority:
        raise typer.BadParameter(
            "--expired needs the key of the mesh's own authority, which no agent of a cluster "
            "has; --foreign-ca and --no-certificate don't"
        )
    question = read_question(
        full_name(source, mesh.namespace),
        full_destination(destination, mesh.namespace),
        given,
        claim=claim and full_name(claim, mesh.namespace),
    )
    diagnosis = mesh.trace(question)
    if output is Output.JSON:
        print_json(diagnosis)
    else:
        print_report(render_trace(diagnosis))
    return 0 if diagnosis.passed else 1


def full_destination(destination: str, namespace: str | None) -> str:
    """TO:PORT with a namespace, if it is a name without one."""
    name, _, port = destination.rpartition(":")
    if namespace is None or not name or name[0] == "[":
        return destination
    return f"{target_key(name, namespace)}:{port}"


def read_question(
    source: str, destination: str, flags: list[str], *, claim: str | None = None
) -> TraceQuestion:
    """Make sense of the command line.

    Args:
        source: FROM.
        destination: TO:PORT.
        flags: Those of the four ways to connect that were given.
        claim: Whose identity a forged certificate claims.

    Raises:
        InputError: It makes none; every problem is listed.
    """
    from troth.connect.report import Credentials, TraceQuestion  # noqa: PLC0415 - for a trace alone

    name, _, port = destination.rpartition(":")
    name = name.removeprefix("[").removesuffix("]")
    problems = [
        *_problems_of_name("FROM", source),
        *_problems_of_destination(destination, name, port),
        *_problems_of_flags(flags, claim),
    ]
    if claim is not None:
        problems += _problems_of_name("--claim", claim)
    if problems:
        raise InputError(problems)
    shown = {
        "--no-certificate": Credentials.NONE,
        "--expired": Credentials.EXPIRED,
        "--foreign-ca": Credentials.FOREIGN_CA,
    }
    flag = flags[0] if flags else ""
    return TraceQuestion(
        source=source,
        destination=name,
        port=int(port),
        past_tunnel=flag == "--plaintext",
        credentials=shown.get(flag, Credentials.OWN),
        claim=claim,
    )


def _problems_of_name(subject: str, name: str) -> Iterator[Problem]:
    namespace, slash, own = name.partition("/")
    if not (namespace and slash and own) or "/" in own:
        yield _problem(subject, f"{name!r} is no NAMESPACE/NAME", "name a pod or a Deployment so")


def _problems_of_destination(text: str, name: str, port: str) -> Iterator[Problem]:
    if not name:
        yield _problem("TO:PORT", f"{text!r} has no port", f"append one, as in {text}:8080")
    elif not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= _LAST_PORT):
        wanted = f"give a number from 1 to {_LAST_PORT}"
        yield _problem("TO:PORT", f"{port!r} in {text!r} is not a port", wanted)


def _problems_of_flags(flags: list[str], claim: str | None) -> Iterator[Problem]:
    if len(flags) > 1:
        yield _problem(" and ".join(flags), "are different connections", "give one of them")
    if claim is not None and not {"--expired", "--foreign-ca"}.intersection(flags):
        wanted = "give --expired or --foreign-ca, too"
        yield _problem("--claim", "only a forged certificate claims an identity", wanted)


def _problem(subject: str, found: str, wanted: str) -> Problem:
    return Problem(subject=subject, path="", found=found, wanted=wanted)
