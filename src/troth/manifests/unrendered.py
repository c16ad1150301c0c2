"""What is no manifest yet: sources of Helm, kustomize, SOPS and OpenShift, and what renders them.

Read as they stand they would be wrong in a dozen places, none of which is the point.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from troth.errors import Location, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ACTION = re.compile(
    r"\{\{-?\s*(?:/\*|\.(?:Values|Release|Chart|Capabilities|Files|Template)\b"
    r"|(?:if|else|end|range|with|include|template|define|block|tpl|toYaml)\b)"
)
"""What Helm's templates have in braces, and hardly another one's."""

_OF_A_CHART = frozenset({"templates", "charts", "ci"})
_KUSTOMIZATIONS = frozenset({"kustomization.yaml", "kustomization.yml", "Kustomization"})
_ONLY_LISTS = frozenset({"apiVersion", "kind", "metadata", "resources"})
"""Fields of a kustomization that changes nothing of what it lists."""

_OPENSHIFT_TEMPLATES = {("Template", version) for version in ("v1", "template.openshift.io/v1")}
_PATCHES = ("patches", "patchesStrategicMerge", "patchesJson6902", "replacements", "configurations")


class Remark(NamedTuple):
    """What a document really is: the line (from 0), what was found, what would be right."""

    line: int
    found: str
    wanted: str


def template_in(text: str) -> Remark | None:
    """Say so if a text that isn't YAML is a template of Helm's."""
    action = _ACTION.search(text)
    if action is None:
        return None
    line = text.count("\n", 0, action.start())
    return Remark(line, "is a Helm template", "give the output of: helm template CHART")


def unrendered(value: object, text: str, file: str) -> Remark | None:
    """Say so if a document that is YAML is no manifest yet."""
    if not isinstance(value, dict):
        return None
    metadata = value.get("metadata")
    if isinstance(metadata, dict) and any("{{" in each for each in _texts(metadata)):
        # Quoted, or YAML would have stopped at the braces.
        return template_in(text)
    seal = value.get("sops")
    if isinstance(seal, dict) and "mac" in seal:
        wanted = f"give the output of: sops -d {_named(file)}"
        return Remark(0, "is encrypted by SOPS", wanted)
    if (value.get("kind"), value.get("apiVersion")) in _OPENSHIFT_TEMPLATES:
        # A cluster stores it as it is: its objects come of it only when it is processed.
        wanted = f"give the output of: oc process --local -f {shlex.quote(file)}"
        return Remark(0, "is an OpenShift template, so none of its objects is read", wanted)
    name = Path(file).name
    if name.startswith("values") and not {"apiVersion", "kind"} & value.keys():
        wanted = f"give the output of: helm template -f {shlex.quote(file)} CHART"
        return Remark(0, "is no manifest, but looks like the values of a Helm chart", wanted)
    return None


def _named(file: str) -> str:
    """A file's name in a command; standard input has none."""
    return "FILE" if file.startswith("<") else shlex.quote(file)


def _texts(metadata: Mapping[str, object]) -> Iterator[str]:
    labels = metadata.get("labels")
    values = (*metadata.values(), *(labels.values() if isinstance(labels, dict) else ()))
    return (each for each in values if isinstance(each, str))


def chart_of(file: Path) -> Problem | None:
    """Say so if a file belongs to a Helm chart that is to be rendered.

    The same of all files of a chart, those of the charts in it among them. Definitions of kinds
    (``crds``) are plain manifests.
    """
    root = None
    absolute = file.absolute()
    for depth, folder in enumerate(absolute.parents):
        within = absolute.relative_to(folder).parts
        own = within[0] in _OF_A_CHART if within[1:] else _is_charts_own(file.name)
        if own and (folder / "Chart.yaml").is_file():
            root = file.parents[depth] if depth < len(file.parents) else folder
    if root is None:
        return None
    command = f"helm template {shlex.quote(str(root))}"
    return Problem(
        subject=f"Helm chart {root}",
        path="",
        found="is not rendered, so nothing of it is read",
        wanted=f"give the output of: {command}",
        location=Location(str(root / "Chart.yaml"), 1),
    )


def _is_charts_own(name: str) -> bool:
    return name.startswith("values") or name == "Chart.yaml"


def is_kustomization(file: Path) -> bool:
    """Whether kustomize, and it alone, would read a file of that name."""
    return file.name in _KUSTOMIZATIONS


def kustomized(file: Path, value: object, *, alone: bool) -> tuple[Problem | None, frozenset[Path]]:
    """What a kustomization leaves to be said, and the files that are patches of others.

    One that only lists files below its directory says nothing that these don't, if they are read,
    too: unless it is ``alone``.
    """
    fields = (
        {key: field for key, field in value.items() if field} if isinstance(value, dict) else {}
    )
    folder = file.parent
    patches = frozenset(
        folder / path for field in _PATCHES for path in _paths(fields.get(field, ()))
    )
    elsewhere = any(
        # Not Path.exists, which raises for a name that is too long.
        not os.path.exists(folder / path) or ".." in Path(path).parts  # noqa: PTH110
        for path in _paths(fields.get("resources", ()))
    )
    if fields.get("kind") == "Component" and not alone:
        return None, patches  # it changes what it is listed by, which is another kustomization
    if fields and not (alone or elsewhere) and fields.keys() <= _ONLY_LISTS:
        return None, patches
    problem = Problem(
        subject=f"kustomization {folder}",
        path="",
        found="is not rendered, so what it adds and changes isn't seen",
        wanted=f"give the output of: kubectl kustomize {shlex.quote(str(folder))}",
        location=Location(str(file), 1),
    )
    return problem, patches


def _paths(entries: object) -> Iterator[str]:
    for entry in entries if isinstance(entries, list) else ():
        path = entry.get("path") if isinstance(entry, dict) else entry
        if isinstance(path, str) and "\n" not in path:
            yield path
