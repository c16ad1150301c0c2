"""What every test cluster has, whatever its nodes are made of: an administrator, and pods."""

from __future__ import annotations

import abc
import contextlib
from typing import TYPE_CHECKING, Any

from tests.e2e.harness import eventually
from tests.rig import objects

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

    from lightkube import Client
    from tests.rig.controlplane import ControlPlane

_FETCH = """
import sys, urllib.request
url, seconds = sys.argv[1], float(sys.argv[2])
try:
    with urllib.request.urlopen(url, timeout=seconds) as reply:
        sys.stdout.write(reply.read().decode())
except OSError as error:
    sys.exit(str(error))
"""


class AnyCluster(abc.ABC):
    """A running cluster; all of it ends with the block.

    Attributes:
        control_plane: Upstream's own.
        client: The administrator's.
    """

    control_plane: ControlPlane
    client: Client

    def __init__(self) -> None:
        self._ends = contextlib.ExitStack()

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    @abc.abstractmethod
    def exec(
        self, namespace: str, name: str, *argv: str, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod's first container, and wait for it."""

    @abc.abstractmethod
    def start(self, namespace: str, name: str, *argv: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command in a pod's first container; its input is the process's."""

    def apply(self, manifests: str | dict[str, Any]) -> None:
        """Apply manifests (YAML, or one object) as the administrator."""
        self.control_plane.apply(manifests)

    def kubectl(self, *arguments: str, **options: Any) -> str:
        """What `kubectl` says to the administrator."""
        return self.control_plane.kubectl(*arguments, **options)

    def get(self, kind: Any, name: str, namespace: str | None = None) -> dict[str, Any]:
        """An object that must exist."""
        found = objects.find(self.client, kind, name, namespace)
        assert found is not None, f"no {kind.__name__} {namespace}/{name}"
        return found

    def delete(self, kind: Any, name: str, namespace: str | None = None) -> None:
        """Delete an object and wait until it has gone."""
        options: dict[str, Any] = {"namespace": namespace} if namespace else {}
        self.client.delete(kind, name, **options)
        self.await_gone(kind, name, namespace)

    def await_gone(self, kind: Any, name: str, namespace: str | None = None) -> None:
        """Wait until an object has gone."""
        eventually(
            lambda: objects.find(self.client, kind, name, namespace) is None,
            what=f"the end of {kind.__name__} {namespace}/{name}",
        )

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """Make a namespace that is ready for pods."""
        metadata = {"name": name, "labels": dict(labels or {})}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self.service_account(name, "default")
        return name

    def service_account(self, namespace: str, name: str) -> str:
        """Make a service account."""
        metadata = {"namespace": namespace, "name": name}
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        return name

    def fetch(self, namespace: str, name: str, url: str, *, seconds: float = 5.0) -> str | None:
        """GET ``url`` from inside a pod: the body, or None when there was no good answer."""
        done = self.exec(namespace, name, "python3", "-c", _FETCH, url, str(seconds))
        return done.stdout if done.returncode == 0 else None
