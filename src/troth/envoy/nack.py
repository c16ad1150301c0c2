r"""Which resources of a push Envoy refused, read from the words of its NACK.

The protocol has no field for it: a NACK is for a whole response. For listeners and clusters Envoy
applies the good ones all the same and lists the bad ones in the message, as in::

    Error adding/updating listener(s) NAME: REASON\nNAME: REASON\n
    Error adding/updating cluster(s) NAME: REASON, NAME: REASON

Any other message (a body that can't be decoded, a certificate without its key) means that nothing
of the response counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_LISTS = {
    "Error adding/updating listener(s) ": "\n",
    "Error adding/updating cluster(s) ": ", ",
}
"""How Envoy introduces a list of refusals, and what stands between two of them."""

_TRUNCATED = "...(truncated)"


def refusals(message: str, names: Collection[str]) -> dict[str, str]:
    """Say which of ``names``, the resources of the response, were refused, and why.

    When in doubt a resource was refused: to take a refusal for an acceptance would show a policy
    as in force that isn't.
    """
    for introduction, separator in _LISTS.items():
        if message.startswith(introduction):
            found = _split(message.removeprefix(introduction), separator, names)
            break
    else:
        found = {}
    if not found:
        return dict.fromkeys(names, message)
    if message.endswith(_TRUNCATED):
        untold = "Envoy's message is too long; it may have refused this, too"
        return dict.fromkeys(names, untold) | found
    return found


def _split(text: str, separator: str, names: Collection[str]) -> dict[str, str]:
    """Read ``NAME: REASON`` items; a part that begins with no known name continues a reason."""
    found: dict[str, str] = {}
    current = ""
    for part in text.split(separator):
        name = _leading_name(part, names)
        if name is not None:
            current = name
            found[name] = part.removeprefix(f"{name}: ")
        elif not current:
            return {}  # not one of ours: the list can't be told apart
        else:
            found[current] += separator + part
    return {name: reason.strip() for name, reason in found.items()}


def _leading_name(part: str, names: Collection[str]) -> str | None:
    end = -1
    while (end := part.find(": ", end + 1)) >= 0:
        if part[:end] in names:
            return part[:end]
    return None
