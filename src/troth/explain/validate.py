"""Everything that is wrong with a set of manifests, and what is probably a mistake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from troth.errors import Problem, Severity
from troth.explain.lint import lint
from troth.manifests.entrances import ENTRANCES
from troth.manifests.runnable import without_effect

if TYPE_CHECKING:
    from troth.manifests.collect import Manifests


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong; ``troth validate -o json`` prints exactly this.

    Attributes:
        valid: There is no error; warnings may remain.
        errors: How many problems refuse an object.
        warnings: How many problems only deserve a look.
        objects: How many objects of each kind are acceptable.
        ignored: How many objects there are of kinds that troth has no use for, by ``KIND.GROUP``.
        without_effect: How many fields and kinds mean something in a cluster and nothing to
            ``troth up``; None where that isn't asked.
        problems: By file and line.
    """

    schema: Literal["troth/validate/v1"] = "troth/validate/v1"
    valid: bool
    errors: int
    warnings: int
    objects: Mapping[str, int]
    ignored: Mapping[str, int]
    without_effect: int | None = None
    problems: tuple[Problem, ...]


def validate(
    manifests: Manifests, *, root_namespace: str, local: bool = False, count_local: bool = False
) -> Validation:
    """Gather the problems of reading and those that show only when all is seen together.

    Args:
        manifests: What to look at.
        root_namespace: Where policies without a selector are mesh-wide.
        local: Also tell what means something in a cluster and nothing to ``troth up``.
        count_local: Say at least how much that is.
    """
    found = [*manifests.problems, *lint(manifests, root_namespace=root_namespace)]
    unmeant = [*without_effect(manifests)] if local or count_local else []
    if local:
        found += unmeant
    problems = sorted(found, key=_place)
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    kinds = [key.partition(" ")[0] for key in manifests.origins]
    return Validation(
        valid=not errors,
        errors=errors,
        warnings=len(problems) - errors,
        objects=dict(sorted(Counter(kind for kind in kinds if kind not in ENTRANCES).items())),
        ignored=dict(manifests.ignored),
        without_effect=len(unmeant) if local or count_local else None,
        problems=tuple(problems),
    )


def _place(problem: Problem) -> tuple[str, int]:
    where = problem.location
    return (where.file, where.line) if where else ("", 0)
