"""Why a Service leads nowhere: the pods that it selects, and what is amiss with each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.local.mesh import LocalMesh
    from troth.local.sandbox import Sandbox
    from troth.sources.workloads import ServiceSpec


def unready(mesh: LocalMesh, name: str) -> Iterator[str]:
    """The pods that a Service selects, and why it doesn't lead to them."""
    spec = mesh.manifests.services.get(name)
    if spec is None or not spec.selector:
        return
    for sandbox in mesh.sandboxes:
        labels = sandbox.template.labels
        if sandbox.template.namespace == spec.namespace and spec.selector.items() <= labels.items():
            yield f"{sandbox.key}: {_why_left_out(spec, sandbox)}"


def _why_left_out(spec: ServiceSpec, sandbox: Sandbox) -> str:
    if sandbox.status.ready:
        named = {port.name: port.number for port in sandbox.template.ports if port.name}
        for port in spec.ports:
            if isinstance(port.target, str) and port.target not in named:
                there = ", ".join(f"{name} ({number})" for name, number in named.items())
                return (
                    f"has no container port called {port.target!r}, which is the targetPort of "
                    f"port {port.number}; it has {there or 'none with a name'}"
                )
        return "has no address of the service's IP family"
    return sandbox.blocker or "runs, but its readiness probe does not succeed"
