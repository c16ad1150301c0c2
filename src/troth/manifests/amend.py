"""Changes to a set of manifests: objects are added, replaced, removed, or kept as they were.

A set with errors never removes objects that were valid before.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec

from troth.errors import InputError, Location, Problem
from troth.manifests.collect import Identity, Manifests, with_implied_namespaces
from troth.manifests.kinds import COLLECTIONS, row_of
from troth.syntax import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime


def amend(
    current: Manifests, *, new: Manifests | None = None, without: Iterable[str] = ()
) -> Manifests:
    """A copy of ``current`` with a change.

    Args:
        current: The set to change; it is not modified.
        new: Objects to add or replace.
        without: Objects to remove first, as ``KIND/NAMESPACE/NAME`` (a Namespace as
            ``Namespace/NAME``), the kind in any case.

    Raises:
        InputError: No object has one of the names to remove.
    """
    new = new or Manifests()
    subjects = {*current.origins, *current.refused}
    gone = _named(without, subjects) | (subjects & {*new.origins, *new.refused})
    collections: dict[str, dict[str, object]] = {
        collection: dict(getattr(current, collection)) for collection in COLLECTIONS
    }
    for subject in gone & current.origins.keys():
        identity = Identity.parse(subject)
        del collections[row_of(identity.kind).collection][identity.key]
    for subject in new.origins:
        identity = Identity.parse(subject)
        collection = row_of(identity.kind).collection
        collections[collection][identity.key] = getattr(new, collection)[identity.key]
    kept = {subject: at for subject, at in current.origins.items() if subject not in gone}
    problems = [problem for problem in current.problems if problem.subject not in gone]
    return with_implied_namespaces(
        msgspec.structs.replace(
            current,
            **collections,
            origins={**kept, **new.origins},
            refused=(current.refused - gone) | new.refused,
            unread=current.unread | new.unread,
            problems=(*problems, *new.problems),
            dated=current.dated or new.dated,
        )
    )


def as_stored(manifests: Manifests, *, now: datetime) -> Manifests:
    """The same with dates on all policies, if some come from a cluster.

    Policies count by age. Among policies from a cluster, one without a date would be created last,
    but without a date it would count as the oldest.

    Args:
        manifests: The manifests from files.
        now: The date of policies without one.
    """
    if not manifests.dated:
        return manifests
    policies = {
        key: each if each.created else msgspec.structs.replace(each, created=now)
        for key, each in manifests.policies.items()
    }
    return msgspec.structs.replace(manifests, policies=policies)


def as_applied(
    new: Manifests, created: Mapping[str, datetime | None], *, now: datetime
) -> Manifests:
    """The same with the dates that policies have once applied to a cluster.

    The API server dates an object at its creation, whatever its manifest says, and never again.

    Args:
        new: The manifests to apply.
        created: When the cluster's PeerAuthentications were created, by ``NAMESPACE/NAME``; None
            for one that counts as the oldest.
        now: The date of the others.
    """
    policies = {
        key: msgspec.structs.replace(each, created=created.get(key, now))
        for key, each in new.policies.items()
    }
    return msgspec.structs.replace(new, policies=policies)


def _named(without: Iterable[str], subjects: set[str]) -> set[str]:
    """The subjects to remove, each ``KIND NAMESPACE/NAME``."""
    known: dict[str, str] = {}
    names: dict[str, None] = {}
    for each in sorted(subjects, key=lambda subject: ("." in subject.partition(" ")[0], subject)):
        kind, _, rest = each.partition(" ")
        # The kind alone is enough if it is unique: Rollout for Rollout.argoproj.io.
        known.setdefault(_folded(f"{kind.partition('.')[0]}/{rest}"), each)
        known[_folded(f"{kind}/{rest}")] = each
        names[f"{kind}/{rest}"] = None
    found, problems = set(), []
    for name in without:
        if subject := known.get(_folded(name)):
            found.add(subject)
            continue
        wanted = nearest(name, names) or "write KIND/NAMESPACE/NAME of an object that is given"
        problems.append(
            Problem(subject=f"object {name}", path="", found="isn't there", wanted=wanted)
        )
    if problems:
        raise InputError(problems)
    return found


def _folded(name: str) -> str:
    kind, slash, rest = name.partition("/")
    return f"{kind.lower()}{slash}{rest}"


def merge_last_good(previous: Manifests, current: Manifests) -> Manifests:
    """What is in force after reading ``current``, given what was in force before.

    By object (``KIND NAMESPACE/NAME``), comparing the set in force with the one just read:

    =============================================================  ================
    the object                                                     what is in force
    =============================================================  ================
    is present and valid                                           the new version
    is present and refused                                         the old version
    is gone, its old file was read to the end                      nothing
    is gone, its old file (or a folder above) was not              the old version
    moved to another file while its old file is unreadable         the old version
    =============================================================  ================

    The last row keeps a file with errors from changing anything: its object may still be in it, and
    the other would be a duplicate that was refused before.

    Args:
        previous: The last result of this function, or the first set that was read.
        current: The set just read, with its errors.

    Returns:
        The current set plus the old versions of objects that now have errors, each with a warning
        that it was kept. Their origins stay, so the next merge works the same way.
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
    in_order = sorted(kept.items(), key=lambda item: (item[1], item[0]))  # the same each time
    notes = tuple(_note(subject, origin, current) for subject, origin in in_order)
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
    found = f"was kept as it was, because {cause}"
    wanted = "correct the errors to change or remove it"
    return Problem.warning(subject, "", found, wanted, location=origin)
