"""A set of manifests with errors never takes down what was good before.

The rule, by object (``KIND NAMESPACE/NAME``), comparing what was in force with what was just read:

=============================================================  ================
the object                                                     what is in force
=============================================================  ================
is there and acceptable                                        the new one
is there and refused                                           the former one
is gone, its former file was read to the end                   nothing
is gone, its former file (or a folder above) was not           the former one
moved to another file while its former file is unreadable      the former one
=============================================================  ================

The last row keeps a file with errors from changing anything: its object may still stand in it, and
the other would be a duplicate that was refused before.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec

from troth.errors import Location, Problem, Severity
from troth.manifests.collect import Identity, Manifests, with_implied_namespaces
from troth.manifests.kinds import COLLECTIONS, row_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def merge_last_good(previous: Manifests, current: Manifests) -> Manifests:
    """What is in force after ``current`` was read, given what was in force before.

    Args:
        previous: The last result of this function, or the first set that was read.
        current: What the manifests say now, with their errors.

    Returns:
        The current set plus the former versions of objects that now have errors, each with a
        warning that it was kept as it was. Their origins stay, so the next merge works alike.
    """
    kept = {
        subject: origin
        for subject, origin in previous.origins.items()
        if _is_kept(subject, origin, current)
    }
    if not kept:
        return current
    merged: dict[str, dict[str, object]] = {
        collection: dict(getattr(current, collection)) for collection in COLLECTIONS
    }
    for subject in kept:
        identity = Identity.parse(subject)
        collection = row_of(identity.kind).collection
        former: Mapping[str, object] = getattr(previous, collection)
        merged[collection][identity.key] = former[identity.key]
    notes = tuple(_note(subject, origin, current) for subject, origin in kept.items())
    return with_implied_namespaces(
        msgspec.structs.replace(
            current,
            **merged,
            origins={**current.origins, **kept},
            problems=current.problems + notes,
        )
    )


def _is_kept(subject: str, origin: Location, current: Manifests) -> bool:
    now = current.origins.get(subject)
    if now is None:
        return subject in current.refused or _unread(origin.file, current)
    return now.file != origin.file and _unread(origin.file, current)


def _unread(file: str, current: Manifests) -> bool:
    path = PurePath(file)
    return any(str(each) in current.unread for each in (file, path, *path.parents))


def _note(subject: str, origin: Location, current: Manifests) -> Problem:
    cause = "its new version is refused" if subject in current.refused else "its file has errors"
    return Problem(
        subject=subject,
        path="",
        found=f"was kept as it was, because {cause}",
        wanted="mend the errors to change or remove it",
        severity=Severity.WARNING,
        location=origin,
    )
