"""What on a machine is in troth's way: pure judgement of what was gathered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.check.judge import kernel_is_old
from troth.check.report import Check, error, in_order, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.check.facts import MachineFacts
    from troth.check.report import Finding

_ARCHITECTURES = frozenset({"x86_64", "aarch64"})


def judge_machine(facts: MachineFacts) -> Check:
    """Judge a machine that is to be a node, or to run a mesh by itself."""
    return Check(
        subject=facts.name, version=facts.kernel, findings=in_order(list(_findings(facts)))
    )


def _findings(facts: MachineFacts) -> Iterator[Finding]:
    where = facts.name
    if kernel_is_old(facts.kernel):
        yield error(
            "kernel-too-old",
            where,
            f"runs Linux {facts.kernel}",
            why="nftables has NAT for both IP versions in one table from Linux 5.2 on.",
            remedy="Upgrade the kernel.",
        )
    if facts.architecture not in _ARCHITECTURES:
        yield error(
            "architecture",
            where,
            f"is {facts.architecture}",
            why="There is no Envoy for it.",
            remedy="Use a machine with an x86-64 or ARM64 processor.",
        )
    for tool in facts.missing_tools:
        yield error(
            "tool-missing",
            where,
            f"has no {tool}",
            why="Pods are captured with it.",
            remedy="Install nftables and util-linux (troth's image has them).",
        )
    if facts.capture:
        yield error(
            "no-capture",
            where,
            f"takes no capture rules: {facts.capture}",
            why="So no pod can be captured.",
            remedy="Use a kernel with CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_REDIR, "
            "CONFIG_NFT_FIB_INET, CONFIG_NFT_LIMIT, CONFIG_NFT_REJECT_INET, CONFIG_NFT_SOCKET and "
            "CONFIG_NF_CONNTRACK, and allow the modules to be loaded.",
        )
    if facts.capture is None:
        yield warning(
            "not-looked-at",
            where,
            "lets you make no network namespace",
            why="So it wasn't tried whether pods can be captured.",
            remedy="Run the check as root, or allow user namespaces.",
        )
    for chain in facts.foreign_redirects:
        yield warning(
            "foreign-redirect",
            where,
            f"redirects TCP in {chain}",
            why="Another program leads connections elsewhere; should it do so in pods, too, both "
            "would redirect the same ones.",
            remedy="See which program made the chain, and keep it from pods of the mesh.",
        )
