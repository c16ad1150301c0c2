"""The documents name what the code has."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

from troth.traffic.connection import Reason

ROOT = Path(__file__).parents[1]
REPORTS = (ROOT / "docs" / "json.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
SCHEMAS = sorted(
    {
        name
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r'"(troth/[a-z-]+/v\d+)"', path.read_text("utf-8"))
    }
    - {"troth/journal/v1"}  # of a file that is the agent's own
)
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "src").rglob("*.py")
    if ">>> " in path.read_text("utf-8")
)
REFERENCES = sorted(
    {
        reference
        for path in (ROOT / "src").rglob("*.py")
        for reference in re.findall(r"`(troth(?:\.\w+)+)`", path.read_text("utf-8"))
        if not reference.startswith("troth.dev")
    }
)
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")))
    if path.name != "CHANGELOG.md"  # tells of what is no longer there, too
}
FILES = sorted(
    {
        (document, name)
        for document, text in DOCUMENTS.items()
        for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", text)
    }
)
LINKS = sorted(
    {
        (document, target)
        for document, text in DOCUMENTS.items()
        for target in re.findall(r"\]\(([^)\s]+)\)", text)
        if "://" not in target
    }
)


@pytest.mark.parametrize(("document", "name"), FILES)
def test_a_file_that_a_document_names_is_there(document: str, name: str) -> None:
    places = (ROOT / "src" / "troth", (ROOT / document).parent, ROOT)
    assert any((place / name).is_file() for place in places)


@pytest.mark.parametrize(("document", "target"), LINKS)
def test_a_link_in_a_document_leads_somewhere(document: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    linked = (ROOT / document).parent / path if path else ROOT / document
    assert linked.exists()
    if anchor:
        assert anchor in map(
            _anchor, re.findall(r"^#+ (.*)$", linked.read_text("utf-8"), re.MULTILINE)
        )


def _anchor(heading: str) -> str:
    """How GitHub names a heading in links to it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("reference", REFERENCES)
def test_what_a_docstring_refers_to_is_there(reference: str) -> None:
    pkgutil.resolve_name(reference)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_in_docstrings_are_true(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted
    assert results.failed == 0


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_json_report_is_documented(schema: str) -> None:
    assert f"## {schema}\n" in REPORTS


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_of_an_event_is_documented(reason: Reason) -> None:
    assert f"`{reason}`" in REPORTS


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.NONE])
def test_every_reason_of_an_event_has_a_row_of_advice(reason: Reason) -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", DOCUMENTS["docs/troubleshoot.md"], re.MULTILINE)
    assert [row for row in rows if f"`{reason}`" in row]


@pytest.mark.parametrize("target", re.findall(r"`make ([a-z -]+)`", CONTRIBUTING))
def test_contributing_names_make_targets_that_there_are(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert [name for name in target.split() if f"\n{name}: setup\n" not in makefile] == []
