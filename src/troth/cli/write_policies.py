"""Writing the policies of an audit as manifest files."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from troth.errors import EnvironmentLackError, InputError, Problem
from troth.explain.front_doors import Breakage
from troth.explain.workloads import listed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.explain.audit_report import Audit, Proposal


def write_policies(audit: Audit, directory: Path) -> list[Path]:
    """Write one file for each proposal; nothing is overwritten, and it is all or nothing.

    Raises:
        InputError: A file is there already.
        EnvironmentLackError: The directory can't be written to.
    """
    files = {directory / _file_name(each): _text(each, audit) for each in audit.policies}
    _refuse(path for path in files if os.path.lexists(path))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError as error:
        _refuse([Path(error.filename)])
    except OSError as error:
        raise EnvironmentLackError(
            f"cannot write {error.filename}: {error.strerror}", "name another directory"
        ) from error
    return list(files)


def _refuse(existing: Iterable[Path]) -> None:
    problems = [
        Problem(
            subject=str(path),
            path="",
            found="exists already",
            wanted="remove it, or write to an empty directory",
        )
        for path in existing
    ]
    if problems:
        raise InputError(problems)


def _file_name(proposal: Proposal) -> str:
    metadata = proposal.manifest["metadata"]
    return f"{metadata['namespace']}.{metadata['name']}.yaml"


def _text(proposal: Proposal, audit: Audit) -> str:
    seen_since = max(audit.since, audit.complete_since).isoformat(timespec="seconds")
    came = "All that was seen came by the tunnel"
    but = ", but at the ports below" if proposal.exceptions else ""
    outside = ""
    if audit.outside and proposal.verdict is Breakage.POSSIBLE:
        outside = f" Outside the mesh: {listed(audit.outside)}."
    comments = [
        f"{came} since {seen_since}{but}.",
        f"Breaks: {proposal.verdict}.{outside}",
        f"Makes STRICT: {', '.join(proposal.workloads)}.",
        *(f"Left as it is: {why}." for why in proposal.exceptions.values()),
    ]
    return commented(comments) + manifest_yaml(proposal)


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
