"""How a plan reads: the modes that change, then who is hurt."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import yaml
from rich.console import Group
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from troth.cli.console import coloured, counted, moment
from troth.explain.front_doors import Breakage
from troth.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from troth.explain.audit_report import Proposal
    from troth.explain.noted import Plaintext
    from troth.explain.plan import Affected, Change, Plan
    from troth.policy.model import Mode

_MOST_CLIENTS = 20
VERDICTS = {
    Breakage.SEEN: ("red", "clients that were seen would be refused"),
    Breakage.POSSIBLE: ("red", "clients that may call today would be refused"),
    Breakage.UNKNOWN: ("yellow", "what can't be read may be a client, or may have some"),
    Breakage.NONE: ("green", ""),
}
"""The colour of a verdict, and what it means."""


def render_plan(plan: Plan) -> RenderableType:
    """Everything a change would do, for people."""
    parts: list[RenderableType] = []
    if plan.changes:
        parts += [_changes(plan.changes), ""]
    else:
        parts += ["No port's mode would change.", ""]
    for each in plan.breaks:
        parts += [*_affected("[red]Would be refused[/red]", each), ""]
    for each in plan.unencrypted:
        parts += [*_affected("[yellow]Would no longer be encrypted[/yellow]", each), ""]
    if plan.problems:
        parts.append("[yellow]Some objects can't be read, and the plan is without them.[/yellow]")
    if plan.unknown:
        unknown = Rows("UNKNOWN", "WHY")
        for one in plan.unknown:
            unknown.add_row(escape(str(one.workload)), escape(one.why))
        parts += [unknown, ""]
    if plan.exceptions:
        what = "To keep the front doors open" if len(plan.exceptions) > 1 else "To keep it open"
        too = "" if any(each.replaces for each in plan.exceptions) else ", too"
        parts += [f"{what}, apply this{too}:", *map(_exception, plan.exceptions), ""]
    parts.append(_conclusion(plan))
    return Group(*(Text.from_markup(part) if isinstance(part, str) else part for part in parts))


def _exception(proposal: Proposal) -> Text:
    """The policy that keeps a front door open, to be pasted."""
    metadata = proposal.manifest["metadata"]
    name = f"{metadata['namespace']}/{metadata['name']}"
    comments = commented(
        (
            *([f"In place of PeerAuthentication {name}."] if proposal.replaces else []),
            *(f"{each}." for each in proposal.exceptions.values()),
        )
    )
    return Text(f"---\n{comments}{manifest_yaml(proposal)}".rstrip())


def _conclusion(plan: Plan) -> str:
    """All that matters in one line, the worst first."""
    colour, meaning = VERDICTS[plan.verdict]
    said = [meaning] if meaning else []
    if plan.unencrypted:
        said.append("connections would lose their encryption")
    if plan.weaker:
        said.append(f"{_who(plan.weaker)} would be less protected")
    stricter = [each for each in plan.changes if each not in plan.weaker]
    if stricter:
        said.append(f"{_who(stricter)} would be stricter")
    text = "; ".join(said) or "nobody that these manifests show would be refused"
    return f"[{colour}]Breaks: {plan.verdict}.[/] {text[0].upper()}{text[1:]}."


def _who(changes: Sequence[Change]) -> str:
    count = len({each.workload for each in changes})
    return "1 workload" if count == 1 else f"{count} workloads"


def _changes(changes: Sequence[Change]) -> Rows:
    """Ports of a workload that change alike share a row."""
    alike: dict[object, list[Change]] = {}
    for each in changes:
        alike.setdefault((each.workload, each.before, each.after, each.decided_by), []).append(each)
    rows = Rows("WORKLOAD", "PORT", "FROM", "TO", "DECIDED BY")
    last = None
    for group in alike.values():
        first = group[0]
        rows.add_row(
            escape(str(first.workload)) if first.workload != last else "",
            _ports(group, alone=first.workload != last),
            _mode(first.before),
            _mode(first.after),
            escape(str(first.decided_by)) if first.decided_by else "",
        )
        last = first.workload
    return rows


def _ports(changes: Sequence[Change], *, alone: bool) -> str:
    ports = ", ".join(str(each.port) for each in changes if each.port is not None)
    if changes[-1].port is not None:
        return ports
    if not ports:
        return "all" if alone else "others"
    return f"{ports} and others"


def _affected(what: str, affected: Affected) -> list[RenderableType]:
    """Who can't go on where, as two short lists rather than all their pairs."""
    names = [str(client) for client in affected.clients]
    hidden = len(names) - _MOST_CLIENTS
    clients = ", ".join(names[:_MOST_CLIENTS]) + (f" and {hidden} more" if hidden > 0 else "")
    seen = any(port.seen for port in affected.ports)
    doors = any(port.front_doors for port in affected.ports)
    more = [*(["SEEN IN PLAINTEXT"] if seen else []), *(["FRONT DOOR"] if doors else [])]
    rows = Rows("TO", "PORT", "FROM", "TO BE", *more)
    for port in affected.ports:
        rows.add_row(
            escape(str(port.workload)),
            "all" if port.port is None else str(port.port),
            _mode(port.before),
            _mode(port.after),
            *([escape("\n".join(map(_seen, port.seen)))] if seen else []),
            *([escape("\n".join(map(str, port.front_doors)))] if doors else []),
        )
    callers = {each.clients: None for port in affected.ports for each in port.front_doors}
    whose = [*([clients] if names else []), *callers]
    of_whom = f"connections of {', '.join(whose) or 'clients seen'}"
    return [f"{what}: {escape(of_whom)}", Padding(rows, (0, 0, 0, 2), expand=False)]


def _seen(seen: Plaintext) -> str:
    return f"{seen.source}, {counted(seen.count, 'time')}, last {moment(seen.last)}"


def _mode(mode: Mode | None) -> str:
    return coloured(mode) if mode else "[dim]not in the mesh[/dim]"


def commented(sentences: Iterable[str]) -> str:
    """YAML comments, each sentence on lines of its own that fit any terminal."""
    lines = (
        line
        for each in sentences
        for line in textwrap.wrap(each[0].upper() + each[1:], 57, break_on_hyphens=False)
    )
    return "".join(f"# {line}\n" for line in lines)


def manifest_yaml(proposal: Proposal) -> str:
    """The policy as a manifest."""
    manifest = dict(proposal.manifest)
    if ports := manifest["spec"].get("portLevelMtls"):
        by_number = {int(number): mode for number, mode in ports.items()}
        manifest["spec"] = {**manifest["spec"], "portLevelMtls": by_number}
    return yaml.safe_dump(manifest, sort_keys=False)
