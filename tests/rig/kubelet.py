"""What a kubelet does for the pods bound to its node, with a kubelet's rights and no more.

It starts pods' containers, restarts them as the pod's policy says, probes their readiness from the
node's own network namespace, reports their status, and ends them gracefully. It is quicker than
the original: probes ignore ``initialDelaySeconds``, and ``periodSeconds`` until the container is
ready. There are no init containers, hooks, liveness or startup probes and no resource limits.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

import httpx2
from lightkube import ApiError
from lightkube.resources.core_v1 import Pod
from tests.e2e.harness import eventually
from tests.rig.podwork import PodWorker

if TYPE_CHECKING:
    from lightkube import Client
    from tests.rig.controlplane import ControlPlane
    from tests.rig.pods import Place

_RETRY_SECONDS = 0.5
_FIRST_POD = 2
_LAST_POD = 254
_ENDED = ("Succeeded", "Failed")


class Kubelet:
    """A node's kubelet.

    Args:
        place: The node.
        control_plane: Whose pods it runs.
        addresses: The first three numbers of its pods' addresses.
    """

    def __init__(self, place: Place, control_plane: ControlPlane, *, addresses: str) -> None:
        self.place = place
        self._client: Client = control_plane.client_of(
            f"system:node:{place.node}", ("system:nodes",)
        )
        self._prefix = addresses
        self._next = _FIRST_POD
        self._taken: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._workers: dict[str, PodWorker] = {}
        self._watcher = threading.Thread(
            target=self._watch, name=f"kubelet {place.node}", daemon=True
        )

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for worker in self._running():
            worker.stop()

    def join(self) -> None:
        """Wait for the end of its watch, which comes with the end of the API server's."""
        self._watcher.join()
        self._client.close()

    def worker(self, namespace: str, name: str) -> PodWorker | None:
        """The pod of that name, if it runs here."""
        for worker in self._running():
            if (worker.namespace, worker.name) == (namespace, name):
                return worker
        return None

    def take_address(self, uid: str, wanted: str | None) -> str:
        """A free address for a pod; a wanted one as soon as it is free."""
        if wanted is not None:
            eventually(lambda: self._take(uid, wanted), what=f"a free {wanted}")
            return wanted
        with self._lock:
            for _ in range(_FIRST_POD, _LAST_POD):
                # Round and round, so that an address is not reused soon unless that is asked for.
                address = f"{self._prefix}.{self._next}"
                self._next = self._next + 1 if self._next < _LAST_POD else _FIRST_POD
                if address not in self._taken:
                    self._taken[address] = uid
                    return address
        raise AssertionError(f"no address is left on {self.place.node}")

    def free_address(self, uid: str) -> None:
        """Take a pod's address back."""
        with self._lock:
            self._taken = {address: owner for address, owner in self._taken.items() if owner != uid}

    def _take(self, uid: str, wanted: str) -> bool:
        with self._lock:
            return self._taken.setdefault(wanted, uid) == uid

    def _running(self) -> list[PodWorker]:
        with self._lock:
            return list(self._workers.values())

    def _watch(self) -> None:
        mine: dict[str, Any] = {"spec.nodeName": self.place.node}
        while not self._stopped.is_set():
            try:
                listing = self._client.list(Pod, namespace="*", fields=mine)
                pods: list[Any] = list(listing)
                present = {pod.metadata.uid for pod in pods}
                for worker in self._running():
                    if worker.uid not in present:
                        self._forget(worker.uid)
                for pod in pods:
                    self._see(pod)
                for event, pod in self._client.watch(
                    Pod, namespace="*", fields=mine, resource_version=listing.resourceVersion
                ):
                    self._hear(event, pod)
            except (ApiError, httpx2.HTTPError, httpx2.StreamError):
                self._stopped.wait(_RETRY_SECONDS)

    def _hear(self, event: str, pod: Any) -> None:
        if event == "DELETED":
            self._forget(pod.metadata.uid)
        else:
            self._see(pod)

    def _see(self, pod: Any) -> None:
        uid = pod.metadata.uid
        with self._lock:
            worker = self._workers.get(uid)
            if worker is None:
                if self._stopped.is_set() or (pod.status and pod.status.phase in _ENDED):
                    return
                worker = self._workers[uid] = PodWorker(self, self._client, pod.to_dict())
                worker.start()
        if pod.metadata.deletionTimestamp is not None:
            worker.end_gracefully(pod.metadata.deletionGracePeriodSeconds or 0)

    def _forget(self, uid: str) -> None:
        with self._lock:
            worker = self._workers.pop(uid, None)
        if worker is not None:
            worker.stop()
