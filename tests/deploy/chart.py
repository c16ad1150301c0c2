"""Renders the Helm chart, for tests and to make plain manifests of it.

``python -m tests.deploy.chart`` writes ``deploy/manifests`` and ``deploy/optional`` anew. Of Helm's
templates only what the chart uses is understood; anything else is an error, and so the chart stays
readable:

=========================  =============================================================
``{{ PIPE }}``             its text
``{{ if PIPE }}``          what stands up to ``{{ end }}``, unless PIPE is empty
``{{ with PIPE }}``        the same, with ``.`` as the value of PIPE
``{{-`` and ``-}}``        with the white space on that side removed
=========================  =============================================================

A PIPE is ``.``, a path such as ``.Values.image.tag``, or ``toYaml`` of one, then ``| default PATH``
or ``| nindent NUMBER`` any number of times; or it is ``eq PATH "TEXT"``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "chart"
MANIFESTS = DEPLOY / "manifests"
OPTIONAL = DEPLOY / "optional"
NAMESPACE = "troth-system"

_ACTION = re.compile(r"(?P<left>\s*\{\{-|\{\{)\s+(?P<words>[^{}]*?)\s+(?P<right>-\}\}\s*|\}\})")
_COMPARISON = re.compile(r'eq (?P<path>\S+) "(?P<text>[^"]*)"')
_SWITCHES = {"policy-admission.yaml": {"policyAdmission": True}}
"""What the chart leaves out with its own values, by the template, and the values that put it in."""

_HEADER = "# Made of deploy/chart by `python -m tests.deploy.chart`.\n"


def templates() -> Iterator[Path]:
    """The chart's templates of objects."""
    yield from sorted((CHART / "templates").glob("*.yaml"))


def render(
    name: str, values: Mapping[str, Any] | None = None, *, namespace: str = NAMESPACE
) -> str:
    """What Helm makes of a template.

    Args:
        name: The file's.
        values: Replace the chart's own, key by key at every level.
        namespace: To install into.

    Raises:
        ValueError: The template has something that isn't understood.
    """
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    own = yaml.safe_load((CHART / "values.yaml").read_text())
    data = {
        "Values": _merged(own, values or {}),
        "Release": {"Namespace": namespace},
        "Chart": {"AppVersion": chart["appVersion"]},
    }
    return _rendered((CHART / "templates" / name).read_text(), data)


def objects(
    name: str, values: Mapping[str, Any] | None = None, *, namespace: str = NAMESPACE
) -> list[dict[str, Any]]:
    """The objects that a template makes; see `render`."""
    documents = yaml.safe_load_all(render(name, values, namespace=namespace))
    return [document for document in documents if document]


def plain(name: str) -> tuple[Path, str]:
    """The file that holds what a template makes, and what belongs into it."""
    folder = OPTIONAL if name in _SWITCHES else MANIFESTS
    return folder / name, _HEADER + render(name, _SWITCHES.get(name))


def _merged(own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    unknown = other.keys() - own.keys()
    if unknown:
        raise ValueError(f"the chart has no values {sorted(unknown)}")
    return {
        key: _merged(value, other[key])
        if isinstance(value, dict) and value and key in other
        else other.get(key, value)
        for key, value in own.items()
    }


def _rendered(template: str, data: Mapping[str, Any]) -> str:
    shown: list[str] = []
    # Of each open block: whether what stands in it is shown, and what `.` is.
    blocks: list[tuple[bool, Any]] = [(True, data)]
    at = 0
    for action in _ACTION.finditer(template):
        visible, dot = blocks[-1]
        if visible:
            shown.append(template[at : action.start()])
        at = action.end()
        match action["words"].split(maxsplit=1):
            case ["end"]:
                blocks.pop()
            case ["if" | "with" as keyword, pipe]:
                value = _value(pipe, data, dot) if visible else None
                blocks.append((visible and bool(value), value if keyword == "with" else dot))
            case _ if visible:
                shown.append(str(_value(action["words"], data, dot)))
    shown.append(template[at:])
    text = "".join(shown)
    if len(blocks) != 1 or "{{" in text:
        raise ValueError("a template has something that only Helm understands")
    return text


def _value(pipe: str, data: Mapping[str, Any], dot: Any) -> Any:
    if compared := _COMPARISON.fullmatch(pipe):
        return str(_operand(compared["path"], data, dot)) == compared["text"]
    first, *rest = pipe.split(" | ")
    value = _operand(first.removeprefix("toYaml "), data, dot)
    if first.startswith("toYaml "):
        value = yaml.safe_dump(value, sort_keys=True, default_flow_style=False).strip()
    for step in rest:
        match step.split():
            case ["default", path]:
                value = value or _operand(path, data, dot)
            case ["nindent", number]:
                value = "".join(f"\n{int(number) * ' '}{line}" for line in value.splitlines())
            case _:
                raise ValueError(f"a template has something that only Helm understands: {step}")
    return value


def _operand(path: str, data: Mapping[str, Any], dot: Any) -> Any:
    if path == ".":
        return dot
    if re.fullmatch(r"(\.[A-Za-z]+)+", path) is None:
        raise ValueError(f"a template has something that only Helm understands: {path}")
    value: Any = data
    for key in path.split(".")[1:]:
        value = value[key]
    return value


if __name__ == "__main__":
    for template in templates():
        path, text = plain(template.name)
        path.write_text(text)
