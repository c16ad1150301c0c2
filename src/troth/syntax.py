"""Kubernetes' rules for names and labels, and how hostile values are quoted in messages.

The rules are those of ``k8s.io/apimachinery/pkg/util/validation``. Quoted values are escaped and
truncated, because messages end up in terminals and logs.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import TypeAlias

import msgspec

_SHOWN_CHARACTERS = 80
_HUGE = 10**20
_HARMLESS_NAME = re.compile(r"[A-Za-z0-9._-]{1,80}")
_HARMLESS_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_HARMLESS_KEY = re.compile(r"[A-Za-z0-9._/-]{1,80}")

_PADDED_IPV4 = re.compile(r"(?=.*\b0[0-9])[0-9]{1,20}(?:\.[0-9]{1,20}){3}")
_MAPPED_IPV4 = re.compile(r"::(?:ffff|FFFF):[0-9]{1,3}(?:\.[0-9]{1,3}){3}")

_ALNUM = "[A-Za-z0-9]"
_QUALIFIED = rf"{_ALNUM}([-A-Za-z0-9_.]*{_ALNUM})?"
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"


Flaw: TypeAlias = tuple[str, str]
"""What is wrong, and what would be right."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The question what was probably meant; empty if nothing is similar."""
    near = closest(name, known)
    return f"did you mean {near}?" if near else ""


def closest(name: str, known: Iterable[str]) -> str:
    """What was probably meant by ``name``; empty if nothing is similar.

    Case, hyphens and underscores are ignored. Of ``NAMESPACE/NAME`` either part may be misspelled;
    a correct part doesn't make the other one more similar.
    """
    there = {_folded(each): each for each in known}
    head, _, own = _folded(name[:256]).rpartition("/")
    for same, typed, part in ((0, own, 2), (2, head, 0)):
        beside = {
            each.rpartition("/")[part]: each
            for each in there
            if each.rpartition("/")[same] == (head, "", own)[same]
        }
        near = difflib.get_close_matches(typed, list(beside), n=1, cutoff=0.7) if typed else ()
        if near:
            return there[beside[near[0]]]
    return ""


def _folded(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")


def choices(name: str, known: Iterable[str]) -> str:
    """The valid choices instead of ``name``, the most similar first."""
    there = sorted(set(known))
    near = nearest(name, there)
    listed = ", ".join(there) or "none"
    return f"{near} There are: {listed}" if near else f"there are: {listed}"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """The syntax of one kind of name.

    Attributes:
        pattern: Must match the whole text; only tried if that isn't too long.
        longest: The maximum number of characters.
        wanted: The rule in words.
    """

    pattern: re.Pattern[str]
    longest: int
    wanted: str

    def flaw(self, value: object) -> Flaw | None:
        """Say how ``value`` violates the rule, if it does."""
        if not isinstance(value, str):
            return f"is {described(value)}", string_wanted(value)
        if len(value) > self.longest:
            return f"is longer than {self.longest} characters", self.wanted
        if not self.pattern.fullmatch(value):
            return f"is {described(value)}", self.wanted
        return None


NAMESPACE = Rule(
    pattern=re.compile(_DNS_LABEL),
    longest=63,
    wanted="use a-z, 0-9 and '-', beginning and ending with a letter or digit (RFC 1123 label)",
)
NAME = Rule(
    pattern=re.compile(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*"),
    longest=253,
    wanted="use a-z, 0-9, '-' and '.', each part beginning and ending with a letter or digit "
    "(RFC 1123 subdomain)",
)
SERVICE_NAME = Rule(
    pattern=re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?"),
    longest=63,
    wanted="use a-z, 0-9 and '-', beginning with a letter (RFC 1035 label)",
)
LABEL_NAME = Rule(
    pattern=re.compile(_QUALIFIED),
    longest=63,
    wanted="use a-z, A-Z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit",
)
LABEL_VALUE = Rule(
    pattern=re.compile(rf"({_QUALIFIED})?"),
    longest=63,
    wanted=LABEL_NAME.wanted + ", or leave it empty",
)


def label_key_flaw(key: object) -> Flaw | None:
    """Say why ``key`` isn't a label key (``[PREFIX/]NAME``), if it isn't."""
    if not isinstance(key, str):
        return f"has a key that is {described(key)}", string_wanted(key)
    if not key:
        return "has an empty key", "write a label's key there"
    prefix, slash, name = key.rpartition("/")
    if slash and (flaw := NAME.flaw(prefix)):
        return f"has a key whose prefix {flaw[0]}", flaw[1]
    if flaw := LABEL_NAME.flaw(name):
        return f"has a key whose name {flaw[0]}", flaw[1]
    return None


def annotation_key_flaw(key: object) -> Flaw | None:
    """The same for an annotation's key, whose prefix may have capitals."""
    return label_key_flaw(key.lower() if isinstance(key, str) else key)


def plain_address(text: str) -> str:
    """An IP as kube-proxy reads it, for other forms that API servers accepted.

    Leading zeros are ignored (``010.0.0.1``), and an IPv4 address mapped to IPv6
    (``::ffff:10.0.0.1``) is the IPv4 address. Other text is unchanged.
    """
    if _PADDED_IPV4.fullmatch(text):
        return ".".join(part.lstrip("0") or "0" for part in text.split("."))
    if _MAPPED_IPV4.fullmatch(text):
        return text.rpartition(":")[2]
    return text


def is_address(text: str) -> bool:
    """Whether a text is an IP, without a zone."""
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def string_wanted(value: object) -> str:
    """The remedy for ``value`` instead of a string."""
    if value is None or isinstance(value, Mapping | list | tuple | set):
        return "write a string"
    return "put quotes around it to make it a string"


def label_text(key: str, value: str) -> str:
    """``KEY=VALUE``, quoted if it isn't a valid label, as in a stored policy's selector."""
    parts = (key, value)
    return "=".join(
        part if flaw is None else described(part)
        for part, flaw in zip(parts, (label_key_flaw(key), LABEL_VALUE.flaw(value)), strict=True)
    )


def legible_name(value: object) -> str:
    """A name, valid or not, for a message; a question mark if it isn't even similar to one."""
    return value if isinstance(value, str) and _HARMLESS_NAME.fullmatch(value) else "?"


def field_path(parent: str, name: object) -> str:
    """The path of an object's field, in Kubernetes' form."""
    if isinstance(name, str) and _HARMLESS_FIELD.fullmatch(name):
        return f"{parent}.{name}" if parent else name
    return key_path(parent, name)


def key_path(parent: str, key: object) -> str:
    """The path of a map's entry, in Kubernetes' form."""
    harmless = isinstance(key, str) and _HARMLESS_KEY.fullmatch(key)
    return f"{parent}[{key if harmless else described(key, bare=True)}]"


def described(value: object, *, bare: bool = False) -> str:
    """Any decoded value for a message: its type, and its text if that is short."""
    match value:
        case None:
            text = "null"
        case bool():
            text = str(value).lower() if bare else f"the boolean {str(value).lower()}"
        case int() | float():
            text = _number(value, bare=bare)
        case str():
            cut = "..." if len(value) > _SHOWN_CHARACTERS else ""
            text = json.dumps(value[:_SHOWN_CHARACTERS]) + cut
        case datetime():
            text = f"the time {value.isoformat()}"
        case date():
            text = f"the date {value.isoformat()}"
        case Mapping():
            text = "a mapping"
        case list() | tuple():
            text = "a list"
        case _:
            text = f"of the type {type(value).__name__}"
    return text


def _number(value: float, *, bare: bool) -> str:
    # Python refuses to print an integer of some thousand digits.
    if isinstance(value, int) and abs(value) >= _HUGE:
        return "a huge number"
    return str(value) if bare else f"the number {value}"
