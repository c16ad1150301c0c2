"""``$(VAR)`` in commands, arguments and variables, as Kubernetes expands it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by the variable; ``$$`` is a plain ``$``.

    An unknown name stays as it stands, and nothing is expanded twice
    (``k8s.io/kubernetes/third_party/forked/golang/expansion``).
    """

    def replacement(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return _REFERENCE.sub(replacement, text)
