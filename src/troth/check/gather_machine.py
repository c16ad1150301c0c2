"""Looks at this machine for what `judge_machine` wants to know; it changes nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess

from troth.agent.capture import complete_rules
from troth.agent.strangers import StrangerLimits
from troth.check.facts import MachineFacts

_TOOLS = ("nft", "nsenter", "setpriv", "unshare")
_SECONDS = 10.0
_OWN_TABLES = frozenset({"troth", "troth_uplink", "troth-node", "kube-proxy"})
_NOT_PERMITTED = re.compile(r"unshare failed|Operation not permitted|uid_map")


def gather_machine() -> MachineFacts:
    """Look at the machine."""
    missing = tuple(tool for tool in _TOOLS if shutil.which(tool) is None)
    can_try = not {"nft", "unshare"} & {*missing}
    return MachineFacts(
        name=platform.node(),
        kernel=platform.release(),
        architecture=platform.machine(),
        missing_tools=missing,
        capture=_try_capture() if can_try else None,
        foreign_redirects=foreign_redirects(_ruleset()) if "nft" not in missing else (),
    )


def foreign_redirects(ruleset: str) -> tuple[str, ...]:
    """The chains of other programs that redirect TCP, in what ``nft list ruleset`` prints.

    kube-proxy's are none: they translate services' addresses, and that is left to it.
    """
    found: list[str] = []
    table = chain = ""
    for line in ruleset.splitlines():
        match line.split():
            case ["table", family, name, "{"]:
                table = f"{family} {name}" if name not in _OWN_TABLES else ""
            case ["chain", name, "{"]:
                chain = name
            case words if table and {"redirect", "tproxy", "REDIRECT", "TPROXY"} & {*words}:
                place = f"table {table}, chain {chain}"
                if place not in found:
                    found.append(place)
    return tuple(found)


def _try_capture() -> str | None:
    """Load the capture rules into a network namespace that ends with it.

    Returns:
        What the kernel says against them; None if no namespace can be made.
    """
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    limits = StrangerLimits(burst=4, total_burst=8, total_rate=1)  # any
    rules = complete_rules(strangers=limits)
    done = _run(("unshare", *user, "--net", "nft", "--file", "-"), rules)
    if done is None or (done.returncode and _NOT_PERMITTED.search(done.stderr)):
        return None
    words = " ".join(done.stderr.split())[:200]
    return (words or f"exit code {done.returncode}") if done.returncode else ""


def _ruleset() -> str:
    done = _run(("nft", "list", "ruleset"), "")
    return done.stdout if done is not None and done.returncode == 0 else ""


def _run(command: tuple[str, ...], text: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
