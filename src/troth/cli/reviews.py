"""Asking the node agents of a cluster what they have seen, and the options for it.

What asks them is imported only for that: it takes several times as long as to ask a local mesh.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import typer
from rich.markup import escape

from troth.cli.cluster import full_name
from troth.cli.console import err
from troth.cluster.contract import DEFAULT_NAMESPACE
from troth.errors import EnvironmentLackError, PeerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from troth.ask.by_reviews import ReviewedMesh
    from troth.cli.cluster import Cluster
    from troth.explain.noted import Observations
    from troth.explain.why import Unanswered
    from troth.reviews.asker import Replies
    from troth.reviews.objects import EventsAnswer, Question

T = TypeVar("T")

AskedNamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        help="Ask about this namespace: of the mesh on this machine, or of a cluster.",
    ),
]
AllNodesOption = Annotated[
    bool,
    typer.Option(
        "--all-nodes",
        help="In a cluster: ask the agents of all nodes, not only of those that the namespace's "
        "captured pods are on.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(help="In a cluster: how many seconds to wait for agents.", min=0.1, max=300),
]
TrothNamespaceOption = Annotated[str, typer.Option(help="In a cluster: where the node agents run.")]
TIMEOUT_SECONDS = 15.0
TROTH_NAMESPACE = DEFAULT_NAMESPACE


class Asking(NamedTuple):
    """Whom to ask about what.

    Attributes:
        cluster: The cluster, whose namespace is asked about.
        home: Where the agents run.
        everywhere: Ask all nodes.
        seconds: How long to wait.
    """

    cluster: Cluster
    home: str = TROTH_NAMESPACE
    everywhere: bool = False
    seconds: float = TIMEOUT_SECONDS

    def about(self, name: str) -> Asking:
        """The same about the namespace of ``NAMESPACE/NAME``."""
        namespace, _, _ = full_name(name, self.cluster.namespace).partition("/")
        return self._replace(cluster=self.cluster._replace(namespace=namespace))


def ask_totals(
    asking: Asking, *, since_seconds: int | None = None
) -> tuple[Observations, tuple[Unanswered, ...]]:
    """What the agents have seen of a namespace's connections, and who didn't say.

    Raises:
        TrothError: None of them answered, or there is no right to ask.
    """
    from troth.explain.noted import Observations  # noqa: PLC0415 - see above
    from troth.reviews.gather import gather  # noqa: PLC0415 - see above
    from troth.reviews.objects import Question  # noqa: PLC0415 - see above

    answers, unanswered = _answers(asking, Question.TOTALS, Observations, since_seconds)
    gathered = gather(answers)
    if gathered.left_out:
        err.print(
            f"[yellow]too much to tell:[/yellow] {gathered.left_out} older kinds of connections "
            "are left out",
            soft_wrap=True,
        )
    return gathered, unanswered


def ask_events(
    asking: Asking, *, since_seconds: int | None = None
) -> tuple[tuple[EventsAnswer, ...], tuple[Unanswered, ...]]:
    """The newest connections that the agents have seen, and who didn't say; raises as above."""
    from troth.reviews.objects import EventsAnswer, Question  # noqa: PLC0415 - see above

    answers, unanswered = _answers(asking, Question.EVENTS, EventsAnswer, since_seconds)
    return tuple(answers.values()), unanswered


@contextlib.contextmanager
def reviewed_mesh(asking: Asking) -> Iterator[ReviewedMesh]:
    """A cluster's mesh that makes and traces connections, of pods of the namespace.

    Raises:
        TrothError: It can't be asked.
    """
    import asyncio  # noqa: PLC0415 - see above

    from troth.ask.by_reviews import ReviewedMesh  # noqa: PLC0415 - see above
    from troth.reviews.asker import Asker, read_places  # noqa: PLC0415 - see above

    config, namespace = asking.cluster.config, asking.cluster.namespace
    with asyncio.Runner() as runner:
        places = runner.run(read_places(config, namespace, home=asking.home))
        asker = Asker(config, namespace)
        runner.run(asker.__aenter__())
        try:
            yield ReviewedMesh(runner, asker, places, seconds=asking.seconds)
        finally:
            runner.run(asker.__aexit__(None, None, None))


def tell_unanswered(unanswered: tuple[Unanswered, ...]) -> None:
    """Say on standard error which nodes' part is missing."""
    for each in unanswered:
        err.print(
            f"[yellow]node {escape(each.node)} did not answer:[/yellow] {escape(each.why)}",
            soft_wrap=True,
        )


def _answers(
    asking: Asking, question: Question, kind: type[T], since_seconds: int | None = None
) -> tuple[Mapping[str, T], tuple[Unanswered, ...]]:
    """The answers by node, one at least, and who gave none."""
    import asyncio  # noqa: PLC0415 - see above

    replies = asyncio.run(_ask(asking, question, since_seconds))
    answers, unanswered = replies.read(kind)
    if not answers:
        said = "; ".join(f"node {each.node}: {each.why}" for each in unanswered)
        raise PeerError("troth", f"no agent answered: {said}", "see whether they run: troth status")
    return answers, unanswered


async def _ask(asking: Asking, question: Question, since_seconds: int | None) -> Replies:
    """Ask every node that is concerned."""
    from troth.reviews.asker import Asker, read_places  # noqa: PLC0415 - see above
    from troth.reviews.gather import concerned_nodes  # noqa: PLC0415 - see above
    from troth.reviews.objects import ReviewSpec  # noqa: PLC0415 - see above

    config, namespace = asking.cluster.config, asking.cluster.namespace
    places = await read_places(config, namespace, home=asking.home)
    nodes = concerned_nodes(places.pods, places.agents, everywhere=asking.everywhere)
    if places.agents is None and (
        asking.everywhere or not any(pod.captured for pod in places.pods)
    ):
        for problem in places.problems:
            err.print(
                f"[yellow]only the nodes of its own pods are asked:[/yellow] "
                f"{escape(str(problem))}",
                soft_wrap=True,
            )
    if not nodes:
        raise EnvironmentLackError(
            f"no node is known whose agent could be asked about namespace {namespace}",
            "see that it has running pods and that the agents run: troth status",
        )
    specs = [
        ReviewSpec(node_name=node, question=question, since_seconds=since_seconds)
        for node in sorted(nodes)
    ]
    async with Asker(config, namespace) as asker:
        return await asker.ask(specs, seconds=asking.seconds)
