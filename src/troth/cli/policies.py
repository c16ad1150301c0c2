"""How policies that are proposed read, and what they would break."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import yaml

from troth.explain.front_doors import Breakage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.explain.audit_report import Proposal

VERDICTS = {
    Breakage.SEEN: ("red", "clients that were seen would be refused"),
    Breakage.POSSIBLE: ("red", "clients that may call today would be refused"),
    Breakage.UNKNOWN: ("yellow", "what can't be read may be a client, or may have some"),
    Breakage.NONE: ("green", ""),
}
"""The colour of a verdict, and what it means."""


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
