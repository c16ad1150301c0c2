"""SPIFFE IDs and trust domains as values that are checked once and then trusted.

The rules are those of the SPIFFE-ID standard (section 2). They are stricter than RFC 3986: an
identity has exactly one spelling, so comparing two is comparing their text. Nothing is normalised;
whatever isn't in its one spelling is refused.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Self

import msgspec

from troth.errors import InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SCHEME = "spiffe://"
_MAX_TRUST_DOMAIN_BYTES = 255
_MAX_ID_BYTES = 2048
_TRUST_DOMAIN_CHARACTERS = frozenset(string.ascii_lowercase + string.digits + ".-_")
_SEGMENT_CHARACTERS = frozenset(string.ascii_letters + string.digits + ".-_")
_SHOWN_CHARACTERS = 80

_Flaw = tuple[str, str]  # what is wrong, what would be right


class TrustDomain(msgspec.Struct, frozen=True, order=True):
    """The name of a trust domain, such as ``cluster.local``: whose word identities rest on.

    Raises:
        InputError: On construction, when ``name`` breaks the SPIFFE-ID standard, section 2.1.
    """

    name: str

    def __post_init__(self) -> None:
        _refuse("trust domain", self.name, _trust_domain_flaws(self.name))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a bare name; a URI such as ``spiffe://cluster.local`` is a `SpiffeId`, not this.

        Raises:
            InputError: ``text`` is no trust domain name; every flaw is listed.
        """
        return cls(text)

    def __str__(self) -> str:
        return self.name

    @property
    def id(self) -> SpiffeId:
        """The trust domain's own SPIFFE ID, the one without a path; its CA certificates carry it."""
        return SpiffeId(self, "")


class SpiffeId(msgspec.Struct, frozen=True, order=True):
    """The name of a workload, as its X509-SVID carries it; `str` gives the URI.

    Attributes:
        trust_domain: Who vouches for it.
        path: Everything after the trust domain, from its slash on; empty for the trust domain
            itself.

    Raises:
        InputError: On construction, when ``path`` breaks the SPIFFE-ID standard, section 2.2, or
            the whole is too long (section 2.3).
    """

    trust_domain: TrustDomain
    path: str

    def __post_init__(self) -> None:
        _refuse("SPIFFE ID", str(self), (*_path_flaws(self.path), *_length_flaws(str(self))))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a ``spiffe://`` URI.

        Raises:
            InputError: ``text`` is no SPIFFE ID; every flaw is listed.
        """
        scheme, authority, path = text[: len(_SCHEME)], *_split(text[len(_SCHEME) :])
        if scheme != _SCHEME:
            _refuse(
                "SPIFFE ID", text, [(f"does not begin with {_SCHEME}", f"begin with {_SCHEME}")]
            )
        flaws = (*_trust_domain_flaws(authority), *_path_flaws(path), *_length_flaws(text))
        _refuse("SPIFFE ID", text, flaws)
        return cls(TrustDomain(authority), path)

    @classmethod
    def for_service_account(
        cls, trust_domain: TrustDomain, namespace: str, service_account: str
    ) -> Self:
        """Name a Kubernetes service account, ``/ns/NAMESPACE/sa/SERVICEACCOUNT`` as Istio does.

        Raises:
            InputError: One of the names doesn't fit in exactly one path segment.
        """
        path = f"/ns/{namespace}/sa/{service_account}"
        flaws = [
            (f"{what} {_shown(name)} {flaw}", wanted)
            for what, name in (("namespace", namespace), ("service account", service_account))
            for flaw, wanted in _segment_flaws(name)
        ]
        _refuse("SPIFFE ID", f"{_SCHEME}{trust_domain}{path}", flaws)
        return cls(trust_domain, path)

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain.name}{self.path}"

    @property
    def namespace(self) -> str | None:
        """The Kubernetes namespace, if this names a service account."""
        match self.path.split("/"):
            case ["", "ns", namespace, "sa", _]:
                return namespace
        return None

    @property
    def service_account(self) -> str | None:
        """The name of the service account, if this names one."""
        match self.path.split("/"):
            case ["", "ns", _, "sa", service_account]:
                return service_account
        return None


def _split(rest: str) -> tuple[str, str]:
    authority, slash, path = rest.partition("/")
    return authority, slash + path


def _trust_domain_flaws(name: str) -> Iterator[_Flaw]:
    if not name:
        yield "the trust domain is empty", "name one, such as cluster.local"
    if len(name.encode(errors="surrogatepass")) > _MAX_TRUST_DOMAIN_BYTES:
        yield (
            f"the trust domain is longer than {_MAX_TRUST_DOMAIN_BYTES} bytes",
            f"use at most {_MAX_TRUST_DOMAIN_BYTES}",
        )
    if strange := _strange(name, _TRUST_DOMAIN_CHARACTERS):
        yield (
            f"the trust domain contains {strange}",
            "use only a-z, 0-9, '.', '-' and '_' (no port, user, query or fragment)",
        )


def _path_flaws(path: str) -> Iterator[_Flaw]:
    if not path:
        return
    if not path.startswith("/"):
        yield "the path does not begin with a slash", "begin it with '/', or leave it out"
        return
    segments = path[1:].split("/")
    if segments[-1] == "":
        yield "the path ends with a slash", "leave the last slash out"
        segments.pop()
    # A hostile path may have two thousand equal flaws; one of a kind is enough to read.
    flaws = {
        (f"path segment {_shown(segment)} {flaw}", wanted): None
        for segment in segments
        for flaw, wanted in _segment_flaws(segment)
    }
    yield from flaws


def _segment_flaws(segment: str) -> Iterator[_Flaw]:
    if not segment:
        yield "is empty", "put a name there"
    if segment in {".", ".."}:
        yield "is relative", "write the path in full"
    if strange := _strange(segment, _SEGMENT_CHARACTERS):
        yield (
            f"contains {strange}",
            "use only a-z, A-Z, 0-9, '.', '-' and '_' (no percent-encoding, query or fragment)",
        )


def _length_flaws(text: str) -> Iterator[_Flaw]:
    if len(text.encode(errors="surrogatepass")) > _MAX_ID_BYTES:
        yield f"is longer than {_MAX_ID_BYTES} bytes", f"use at most {_MAX_ID_BYTES}"


def _strange(text: str, allowed: frozenset[str]) -> str:
    """The characters of ``text`` that are not allowed, each once, fit for a message."""
    strange = dict.fromkeys(character for character in text if character not in allowed)
    return ", ".join(ascii(character) for character in list(strange)[:5])


def _shown(text: str) -> str:
    """Hostile text fit for a message: quoted, escaped, bounded."""
    if len(text) > _SHOWN_CHARACTERS:
        return f"{ascii(text[:_SHOWN_CHARACTERS])}..."
    return ascii(text)


def _refuse(what: str, text: str, flaws: Iterable[_Flaw]) -> None:
    problems = [
        Problem(subject=f"{what} {_shown(text)}", path="", found=found, wanted=wanted)
        for found, wanted in flaws
    ]
    if problems:
        raise InputError(problems)
