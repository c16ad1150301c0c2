"""The controller on a test cluster: its rights, its replicas, and node agents that ask it.

The rights are those that it has after an installation and no more, so a test that passes also
shows that they suffice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from lightkube import KubeConfig
from lightkube.models.authentication_v1 import BoundObjectReference, TokenRequestSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Namespace, Pod, ServiceAccount
from tests.deploy import chart
from tests.e2e.harness import PATIENCE_SECONDS

from troth.controller.election import ElectionTiming
from troth.controller.run import Controller
from troth.controller.signing import SigningRules
from troth.controller.work import ControllerSettings
from troth.identity.spiffe import TrustDomain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from lightkube import SingleConfig
    from tests.rig.harness import Cluster

TRUST_DOMAIN = TrustDomain.parse("cluster.local")

QUICK = ElectionTiming(lease=4, renew=2.5, retry=0.3)

# Somebody who may ask as node agents do, and isn't one.
_STRANGER = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: strangers-requests}}
rules:
  - apiGroups: [certificates.k8s.io]
    resources: [certificatesigningrequests]
    verbs: [create, list, watch, delete]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {namespace}-stranger}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: strangers-requests}}
subjects: [{{kind: ServiceAccount, namespace: {namespace}, name: stranger}}]
"""


class Control:
    """An installation in a namespace of its own.

    Args:
        cluster: Where.
        namespace: The installation's.
        values: Of the chart, other than its own.
    """

    def __init__(
        self, cluster: Cluster, namespace: str, values: Mapping[str, Any] | None = None
    ) -> None:
        self.cluster = cluster
        self.namespace = cluster.namespace(namespace)
        for name in ("controller-rbac.yaml", "node-rbac.yaml", "review-rbac.yaml"):
            for made in chart.objects(name, values, namespace=namespace):
                if made["kind"] == "ClusterRoleBinding":  # each installation's own
                    made["metadata"]["name"] += f"-{namespace}"
                cluster.apply(made)
        cluster.service_account(namespace, "stranger")
        cluster.apply(_STRANGER.format(namespace=namespace))

    def settings(self) -> ControllerSettings:
        """Of a replica."""
        rules = SigningRules(trust_domain=TRUST_DOMAIN, namespace=self.namespace)
        return ControllerSettings(
            rules=rules, namespace=self.namespace, health_port=0, timing=QUICK
        )

    def config(self, account: str = "troth-controller") -> SingleConfig:
        """The access of a service account, by a token that is bound to nothing."""
        return _single(self.kubeconfig(account))

    def kubeconfig(self, account: str = "troth-controller") -> Path:
        """The same as a file."""
        return self._kubeconfig(account, self._token(account))

    def agent(self, node: str, account: str = "troth-node") -> SingleConfig:
        """The access of a pod on a node, by a token that is bound to it."""
        return _single(self._kubeconfig(f"{account}-{node}", self._bound_token(node, account)))

    def inside(self, account: str, node: str = "") -> Path:
        """A kubeconfig for the cluster's machines; bound to a pod on the node if one is given."""
        token = self._bound_token(node, account) if node else self._token(account)
        name = f"{self.namespace}-{account}-{node}"
        return self.cluster.control_plane.token_kubeconfig(name, token)

    def node(self, name: str) -> str:
        """Make a Node object; there is nothing behind it. Gives its UID."""
        self.cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        return str(self.cluster.kubectl("get", "node", name, "-o", "jsonpath={.metadata.uid}"))

    def bound_pod(self, node: str, namespace: str, account: str, *, name: str) -> Pod:
        """Make a Pod object that is bound to a node; nothing runs."""
        spec = {
            "nodeName": node,
            "serviceAccountName": account,
            "containers": [{"name": "app", "image": "test"}],
            "tolerations": [{"operator": "Exists"}],
        }
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name},
            "spec": spec,
        }
        self.cluster.apply(document)
        return self.cluster.client.get(Pod, name, namespace=namespace)

    def _bound_token(self, node: str, account: str) -> str:
        name = f"{account}-{node}"
        pod = self.bound_pod(node, self.namespace, account, name=name)
        uid = pod.metadata.uid if pod.metadata else ""
        return self._token(
            account, BoundObjectReference(kind="Pod", apiVersion="v1", name=name, uid=uid)
        )

    def _token(self, account: str, bound: BoundObjectReference | None = None) -> str:
        spec = TokenRequestSpec(audiences=[], boundObjectRef=bound, expirationSeconds=3600)
        answer = self.cluster.client.create(
            ServiceAccount.Token(metadata=ObjectMeta(), spec=spec),
            account,
            namespace=self.namespace,
        )
        assert answer.status is not None
        return str(answer.status.token)

    def _kubeconfig(self, name: str, token: str) -> Path:
        return self.cluster.control_plane.token_kubeconfig(
            f"{self.namespace}-{name}", token, outside=True
        )


def mesh_namespace(cluster: Cluster, name: str) -> str:
    """Make a namespace whose pods are in the mesh."""
    return cluster.namespace(name, {"troth.dev/mesh": "enabled"})


def label(cluster: Cluster, namespace: str, value: str | None) -> None:
    """Put a namespace into the mesh, or take it out."""
    cluster.client.set(Namespace, namespace, labels={"troth.dev/mesh": value})  # type: ignore[dict-item]  # None removes it


@contextlib.asynccontextmanager
async def running(config: SingleConfig, settings: ControllerSettings) -> AsyncIterator[Controller]:
    """A replica, while the block runs; its end is an ordinary stop."""
    controller = Controller(config, settings)
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def leading(controller: Controller) -> None:
    """Wait until a replica leads and nothing is in its way."""

    def look() -> bool:
        state = controller.readiness()
        return state.leading and not state.waiting_for

    await soon(look, what=lambda: f"readiness of the leader: {controller.readiness()}")


async def soon(
    look: Callable[[], Any], *, what: str | Callable[[], str], seconds: float = PATIENCE_SECONDS
) -> Any:
    """Look until what is seen is truthy, and return it; the loop goes on meanwhile."""
    deadline = time.monotonic() + seconds
    while True:
        # It asks the API server, and must not hold up the controller in this loop.
        if seen := await asyncio.to_thread(look):
            return seen
        words = what if isinstance(what, str) else what()
        assert time.monotonic() < deadline, f"{words} did not come true in {seconds} s"
        await asyncio.sleep(0.05)


async def in_thread(action: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Talk to the API server without holding up the loop."""
    return await asyncio.to_thread(action, *arguments, **options)


def background(work: Awaitable[None]) -> contextlib.AbstractAsyncContextManager[None]:
    """Run ``work`` while the block runs."""

    @contextlib.asynccontextmanager
    async def beside() -> AsyncIterator[None]:
        task = asyncio.ensure_future(work)
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return beside()


def _single(kubeconfig: Path) -> SingleConfig:
    config = KubeConfig.from_file(kubeconfig).get()
    assert config is not None
    return config
