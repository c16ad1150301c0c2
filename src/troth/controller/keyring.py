"""The authority's Secret: what is in it, and how one root is replaced by another in phases.

No connection is lost on the way, because a root is believed everywhere before it signs, and is
believed for as long as anything that it signed is in use:

================  ===========  ==============  =================================================
phase             signs        believed        ends when
================  ===========  ==============  =================================================
``stable``        the root     the root        somebody asks for a rotation
``distributing``  the old one  old and new     every node believes in the new root
``switched``      the new one  new and old     no node uses a certificate of the old root, or the
                                               last of them has expired
================  ===========  ==============  =================================================

The keys of the Secret are those of Istio's ``cacerts``, so an intermediate of one's own PKI goes in
as it is; its successor is put beside it with ``next-`` before each key. Where the rotation stands
is in annotations, for people to see and for the next leader to go on from.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from troth.cluster.contract import LONGEST_LIFETIME
from troth.errors import InputError, Problem
from troth.identity.authority import CertificateAuthority
from troth.identity.bundle import TrustBundle
from troth.identity.profile import root_fingerprint
from troth.syntax import described

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.cluster.contract import NodeReport
    from troth.identity.spiffe import TrustDomain

CERTIFICATE, KEY, CHAIN, ROOT = AUTHORITY_KEYS = (
    "ca-cert.pem",
    "ca-key.pem",
    "cert-chain.pem",
    "root-cert.pem",
)
NEXT = "next-"
PREVIOUS_ROOT = "previous-root-cert.pem"

ROTATE_ANNOTATION = "troth.dev/rotate"
"""Set by `troth ca rotate`, with any value, to ask for a rotation; removed when it begins."""

PHASE_ANNOTATION = "troth.dev/rotation-phase"
SINCE_ANNOTATION = "troth.dev/rotation-since"

MADE_ANNOTATION = "troth.dev/made-by"
"""``controller`` when the controller made the root itself and so may make its successor."""


class Phase(StrEnum):
    """Where the rotation stands; see the table above."""

    STABLE = "stable"
    DISTRIBUTING = "distributing"
    SWITCHED = "switched"


class Content:
    """Data and annotations of the Secret. Has private keys, so it is never shown."""

    __slots__ = ("annotations", "data")

    def __init__(self, data: Mapping[str, bytes], annotations: Mapping[str, str]) -> None:
        self.data = dict(data)
        self.annotations = dict(annotations)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} hidden>"


class Keyring(NamedTuple):
    """What the Secret says.

    Attributes:
        signing: The authority that signs now.
        bundle: The roots to believe.
        phase: Of the rotation.
        since: When this phase began; None when there has been no rotation.
        arriving: Fingerprints of the roots that are believed and do not sign yet.
        leaving: Fingerprints of the roots that no longer sign.
        wants_rotation: Whether somebody asked for one.
    """

    signing: CertificateAuthority
    bundle: TrustBundle
    phase: Phase = Phase.STABLE
    since: datetime | None = None
    arriving: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    wants_rotation: bool = False


def first_content(trust_domain: TrustDomain, now: datetime) -> Content:
    """A new root of the controller's own."""
    return Content(
        _data_of(CertificateAuthority.self_signed(trust_domain, now=now)),
        {MADE_ANNOTATION: "controller"},
    )


def read_keyring(
    content: Content, *, trust_domain: TrustDomain, now: datetime, subject: str
) -> Keyring:
    """Read and prove everything in the Secret.

    Args:
        content: The Secret's.
        trust_domain: Whose identities are to be signed.
        now: When it all has to be valid.
        subject: What to call the Secret in messages.

    Raises:
        InputError: Something in it is missing or won't do.
    """
    phase, since = rotation_phase(content.annotations, subject)
    signing = _authority(content.data, "", trust_domain, now, subject)
    own = signing.trust_bundle
    others = None
    if phase is Phase.DISTRIBUTING:
        others = _authority(content.data, NEXT, trust_domain, now, subject).trust_bundle
    elif phase is Phase.SWITCHED:
        others = TrustBundle.parse(
            trust_domain,
            content.data.get(PREVIOUS_ROOT, b""),
            subject=subject,
            path=f"data[{PREVIOUS_ROOT}]",
        )
    extra = _fingerprints(others) - _fingerprints(own) if others else frozenset()
    return Keyring(
        signing=signing,
        bundle=own.merge(others) if others else own,
        phase=phase,
        since=since,
        arriving=extra if phase is Phase.DISTRIBUTING else frozenset(),
        leaving=extra if phase is Phase.SWITCHED else frozenset(),
        wants_rotation=ROTATE_ANNOTATION in content.annotations,
    )


def rotation_phase(annotations: Mapping[str, str], subject: str) -> tuple[Phase, datetime | None]:
    """Where the rotation stands by the Secret's annotations, and since when.

    Raises:
        InputError: Somebody wrote something else there.
    """
    phase = annotations.get(PHASE_ANNOTATION, Phase.STABLE)
    since = annotations.get(SINCE_ANNOTATION, "")
    problems: list[tuple[str, str, str]] = []
    if phase not in {*Phase}:
        problems.append((PHASE_ANNOTATION, phase, "write one of " + ", ".join(Phase)))
    try:
        began = datetime.fromisoformat(since) if since else None
    except ValueError:
        began = None
        problems.append((SINCE_ANNOTATION, since, "write a time as in RFC 3339"))
    else:
        if began is not None and began.tzinfo is None:
            problems.append((SINCE_ANNOTATION, since, "give the time zone too"))
    if problems:
        raise InputError(
            Problem(
                subject=subject,
                path=f"metadata.annotations[{key}]",
                found=f"is {described(value)}",
                wanted=wanted,
            )
            for key, value, wanted in problems
        )
    return Phase(phase), began


def begin(content: Content, *, trust_domain: TrustDomain, now: datetime, subject: str) -> Content:
    """``stable`` to ``distributing``: put the next authority beside the present one.

    It is the one that the user gave under ``next-`` keys, or else a new root.

    Raises:
        InputError: The user gave this authority, and no next one or one that won't do.
    """
    data = dict(content.data)
    if NEXT + CERTIFICATE in data:
        _authority(data, NEXT, trust_domain, now, subject)
    elif content.annotations.get(MADE_ANNOTATION) == "controller":
        successor = CertificateAuthority.self_signed(trust_domain, now=now)
        data |= {NEXT + key: value for key, value in _data_of(successor).items()}
    else:
        raise InputError(
            [
                Problem(
                    subject=subject,
                    path=f"data[{NEXT}{CERTIFICATE}]",
                    found="is missing, and the present authority is not the controller's own",
                    wanted="put its successor beside it, as " + ", ".join(_next_keys()),
                )
            ]
        )
    return _moved(data, content.annotations, Phase.DISTRIBUTING, now)


def switch(content: Content, *, now: datetime) -> Content:
    """``distributing`` to ``switched``: the next authority signs, and the old key is gone."""
    kept = {key: value for key, value in content.data.items() if not key.startswith(NEXT)}
    for key in AUTHORITY_KEYS:
        kept[key] = content.data.get(NEXT + key, b"")
    kept[PREVIOUS_ROOT] = content.data.get(ROOT, b"") or content.data[CERTIFICATE]
    return _moved(kept, content.annotations, Phase.SWITCHED, now)


def retire(content: Content, *, now: datetime) -> Content:
    """``switched`` to ``stable``: the old root is believed no more."""
    kept = {key: value for key, value in content.data.items() if key != PREVIOUS_ROOT}
    return _moved(kept, content.annotations, Phase.STABLE, now)


def _moved(
    data: Mapping[str, bytes], annotations: Mapping[str, str], phase: Phase, now: datetime
) -> Content:
    annotations = {**annotations, PHASE_ANNOTATION: phase, SINCE_ANNOTATION: f"{now:%FT%TZ}"}
    if phase is Phase.DISTRIBUTING:
        annotations.pop(ROTATE_ANNOTATION, None)
    return Content(data, annotations)


def _data_of(authority: CertificateAuthority) -> dict[str, bytes]:
    return {
        CERTIFICATE: authority.certificate_pem,
        KEY: authority.private_key.reveal(),
        CHAIN: authority.chain_pem,
        ROOT: authority.trust_bundle.pem,
    }


def _authority(
    data: Mapping[str, bytes], prefix: str, trust_domain: TrustDomain, now: datetime, subject: str
) -> CertificateAuthority:
    paths = dict(
        zip(
            ("certificate", "key", "chain", "root"),
            (prefix + k for k in AUTHORITY_KEYS),
            strict=True,
        )
    )
    missing = [paths[each] for each in ("certificate", "key") if not data.get(paths[each])]
    if missing:
        raise InputError(
            Problem(subject=subject, path=f"data[{key}]", found="is missing", wanted="give its PEM")
            for key in missing
        )
    try:
        return CertificateAuthority.from_pem(
            trust_domain=trust_domain,
            now=now,
            subject=subject,
            **{argument: data.get(key, b"") for argument, key in paths.items()},
        )
    except InputError as error:
        raise InputError(
            Problem(
                subject=problem.subject,
                path=f"data[{paths[problem.path]}]" if problem.path in paths else problem.path,
                found=problem.found,
                wanted=problem.wanted,
            )
            for problem in error.problems
        ) from error


def _fingerprints(bundle: TrustBundle) -> frozenset[str]:
    return frozenset(map(root_fingerprint, bundle.certificates))


def _next_keys() -> tuple[str, ...]:
    return tuple(NEXT + key for key in AUTHORITY_KEYS)


class Stand(Protocol):
    """Where a rotation stands; a `Keyring` says it, too."""

    @property
    def phase(self) -> Phase:
        """Its phase."""

    @property
    def since(self) -> datetime | None:
        """When the phase began."""

    @property
    def arriving(self) -> frozenset[str]:
        """Fingerprints of the roots that are believed and do not sign yet."""

    @property
    def leaving(self) -> frozenset[str]:
        """Fingerprints of the roots that no longer sign."""


def awaited(
    stand: Stand, reports: Mapping[str, NodeReport | None], *, now: datetime
) -> tuple[str, ...]:
    """What the present phase is waiting for, in words; empty when it may end.

    A node that is silent is waited for, since its Envoy may run on without its agent. It is given
    up when its Node is deleted, and its report with it.

    Args:
        stand: Of the rotation.
        reports: By node; None for one that can't be read.
        now: The time.
    """
    if stand.phase is Phase.STABLE:
        return ()
    if (
        stand.phase is Phase.SWITCHED
        and stand.since is not None
        and now > stand.since + LONGEST_LIFETIME
    ):
        return ()  # nothing that the old root signed is valid any longer
    if not reports:
        return ("the first node's report",)
    if stand.phase is Phase.DISTRIBUTING:
        return tuple(
            f"{name} to believe in the new root"
            for name, report in sorted(reports.items())
            if report is None or not stand.arriving <= report.roots
        )
    return tuple(
        f"{name} to renew its certificates"
        for name, report in sorted(reports.items())
        if report is None or stand.leaving & report.issuers
    )


def signing_root(keyring: Keyring) -> str:
    """Fingerprint of the root that new certificates chain to."""
    # There are several only where the user's own authority comes with more than its root.
    return root_fingerprint(keyring.signing.trust_bundle.certificates[0])
