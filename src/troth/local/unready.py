"""Why a Service leads nowhere: the pods that it selects, and what is amiss with each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.local.mesh import LocalMesh
    from troth.local.sandbox import Sandbox


def unready(mesh: LocalMesh, name: str) -> Iterator[str]:
    """The pods that a Service selects, and why it doesn't lead to them."""
    spec = mesh.manifests.services.get(name)
    if spec is None or not spec.selector:
        return
    for sandbox in mesh.sandboxes:
        labels = sandbox.template.labels
        if sandbox.template.namespace == spec.namespace and spec.selector.items() <= labels.items():
            yield f"{sandbox.key}: {_why_left_out(sandbox)}"


def _why_left_out(sandbox: Sandbox) -> str:
    if sandbox.status.ready:
        return "has no container port of the service's targetPort, or no address of its IP family"
    return sandbox.blocker or "runs, but its readiness probe does not succeed"
