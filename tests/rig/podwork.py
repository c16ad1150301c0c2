"""One pod's life on its node."""

from __future__ import annotations

import datetime as dt
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx2
from lightkube import ApiError
from lightkube.resources.core_v1 import Pod
from tests.rig import cni, volumes
from tests.rig.pods import Container, Sandbox
from tests.rig.probes import probe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lightkube import Client
    from tests.rig.kubelet import Kubelet

_TICK_SECONDS = 0.1
_RETRY_SECONDS = 0.5

ADDRESS_ANNOTATION = "test.troth.dev/address"


class PodWorker:
    """Runs a pod until it is told to end, in a thread of its own.

    Args:
        kubelet: The node's.
        client: With the kubelet's rights.
        pod: The Pod object as it was first seen.

    Attributes:
        connecting_since: When its network was given to it, as `time.time` has it.
    """

    def __init__(self, kubelet: Kubelet, client: Client, pod: Mapping[str, Any]) -> None:
        metadata = pod["metadata"]
        self.uid: str = metadata["uid"]
        self.namespace: str = metadata["namespace"]
        self.name: str = metadata["name"]
        self.sandbox: Sandbox | None = None
        self._sandbox_made: Sandbox | None = None
        self.connecting_since = 0.0
        self.containers: dict[str, Container] = {}
        self._kubelet = kubelet
        self._client = client
        self._pod = pod
        self._restarts: dict[str, int] = {}
        self._ready: dict[str, bool] = {}
        self._failures: dict[str, int] = {}
        self._next_probe: dict[str, float] = {}
        self._reported: dict[str, Any] = {}
        self._since: dict[str, tuple[str, str]] = {}
        self._started_at = _now()
        self._deadline: float | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"pod {self.name}", daemon=True)

    @property
    def has_sandbox(self) -> bool:
        """Whether its namespaces are there; its network may still be about to be set up."""
        return self._sandbox_made is not None

    def start(self) -> None:
        """Start the pod."""
        self._thread.start()

    def end_gracefully(self, seconds: float) -> None:
        """Ask the containers to end, and end them after that time."""
        deadline = time.monotonic() + seconds
        first = self._deadline is None
        if first or deadline < (self._deadline or 0):
            self._deadline = deadline
        if first:
            for container in tuple(self.containers.values()):
                container.terminate()

    def stop(self) -> None:
        """End the pod at once and wait."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._set_up()
            while not (self._over() or self._stopped.wait(_TICK_SECONDS)):
                self._tend()
        except Exception as error:  # noqa: BLE001 - whatever it is, the pod's status tells it
            message = f"{type(error).__name__}: {error}"
            while not self._report(phase="Failed", message=message):
                if self._stopped.wait(_RETRY_SECONDS):
                    break
        finally:
            self._tear_down()

    def _set_up(self) -> None:
        spec, metadata = self._pod["spec"], self._pod["metadata"]
        if spec.get("initContainers"):
            raise ValueError("the test kubelet has no init containers")
        if spec.get("hostNetwork"):
            address = self._kubelet.place.address
        else:
            wanted = metadata.get("annotations", {}).get(ADDRESS_ANNOTATION)
            address = self._kubelet.take_address(self.uid, wanted)
        sandbox = Sandbox(self._kubelet.place, self._pod, address)
        self._sandbox_made = sandbox
        self.connecting_since = time.time()
        if self._connected(sandbox):
            self.sandbox = sandbox
            self._volumes = self._prepare_volumes(sandbox)

    def _connected(self, sandbox: Sandbox) -> bool:
        """Have the node's CNI plugins called until they are content; no process runs before."""
        while self._deadline is None and not self._stopped.is_set():
            try:
                cni.call(sandbox, "ADD")
            except cni.CniError as error:
                cni.call(sandbox, "DEL")
                self._report(phase="Pending", message=str(error))
                self._stopped.wait(_RETRY_SECONDS)
            else:
                return True
        return False

    def _prepare_volumes(self, sandbox: Sandbox) -> dict[str, Path]:
        # What a pod mounts may come later than the pod, and so may a kubelet's right to read it.
        while self._deadline is None and not self._stopped.is_set():
            try:
                return volumes.prepare(sandbox, self._client)
            except (ApiError, httpx2.HTTPError) as error:
                self._report(phase="Pending", message=str(error))
                self._stopped.wait(_TICK_SECONDS)
        return {}

    def _start_container(self, spec: Mapping[str, Any]) -> None:
        assert self.sandbox is not None
        self.containers[spec["name"]] = Container(
            self.sandbox,
            spec,
            volumes.environment(self.sandbox, spec),
            volumes.resolv_conf(self.sandbox) | volumes.mounts(spec, self._volumes),
        )

    def _tend(self) -> None:
        """Restart, probe, report."""
        for spec in self._pod["spec"]["containers"]:
            container = self.containers.get(spec["name"])
            if container is None:
                if self._deadline is None:
                    self._start_container(spec)
            elif container.exit_code is None:
                self._look(spec, container)
            elif self._deadline is None and self._restart_wanted(container.exit_code):
                self._restarts[container.name] = self._restarts.get(container.name, 0) + 1
                self._stopped.wait(_RETRY_SECONDS)
                self._start_container(spec)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            for container in self.containers.values():
                container.kill()
        self._report(phase=self._phase())

    def _look(self, spec: Mapping[str, Any], container: Container) -> None:
        name = spec["name"]
        running = container.exit_code is None and bool(container.pid)
        wanted = spec.get("readinessProbe")
        if not running or wanted is None:
            self._ready[name] = running
            return
        assert self.sandbox is not None
        # As often as a test likes to look, until it is ready; then as often as the pod says.
        if self._ready.get(name) and time.monotonic() < self._next_probe.get(name, 0.0):
            return
        self._next_probe[name] = time.monotonic() + wanted.get("periodSeconds", 0.0)
        if probe(wanted, spec, self.sandbox, container):
            self._ready[name], self._failures[name] = True, 0
            return
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] >= wanted.get("failureThreshold", 3):
            self._ready[name] = False

    def _restart_wanted(self, exit_code: int) -> bool:
        policy = self._pod["spec"].get("restartPolicy", "Always")
        return policy == "Always" or (policy == "OnFailure" and exit_code != 0)

    def _phase(self) -> str:
        codes = [container.exit_code for container in self.containers.values()]
        if len(codes) < len(self._pod["spec"]["containers"]):
            return "Pending"
        ended = [code for code in codes if code is not None]
        restarted = self._deadline is None and any(map(self._restart_wanted, ended))
        if len(ended) < len(codes) or restarted:
            started = any(container.pid for container in self.containers.values())
            return "Running" if started or self._reported.get("phase") == "Running" else "Pending"
        return "Failed" if any(ended) else "Succeeded"

    def _over(self) -> bool:
        if self._deadline is not None and not self.containers:
            return True
        return self._reported.get("phase") in {"Succeeded", "Failed"}

    def _tear_down(self) -> None:
        if self._sandbox_made is not None:
            cni.call(self._sandbox_made, "DEL")
            self._sandbox_made.close()
        for container in self.containers.values():
            container.kill()
        self._kubelet.free_address(self.uid)
        # The last word on a pod that is being deleted is its kubelet's.
        while self._deadline is not None and not self._stopped.is_set():
            try:
                self._client.delete(Pod, self.name, namespace=self.namespace, grace_period=0)
            except ApiError as error:
                if error.status.code != HTTPStatus.NOT_FOUND:
                    self._stopped.wait(_RETRY_SECONDS)
                    continue
            except httpx2.HTTPError:
                self._stopped.wait(_RETRY_SECONDS)
                continue
            return

    def _report(self, *, phase: str, message: str = "") -> bool:
        """Write the pod's status; whether it stands in the API now."""
        status = self._status(phase, message)
        if status != self._reported:
            try:
                self._client.patch(
                    Pod.Status, self.name, {"status": status}, namespace=self.namespace
                )
            except (ApiError, httpx2.HTTPError):
                return False
            self._reported = status
        return True

    def _status(self, phase: str, message: str) -> dict[str, Any]:
        running = phase == "Running"
        ready = running and all(self._ready.get(name) for name in self.containers)
        status: dict[str, Any] = {
            "phase": phase,
            "startTime": self._started_at,
            "hostIP": self._kubelet.place.address,
            "hostIPs": [{"ip": self._kubelet.place.address}],
            "conditions": [
                self._condition("PodReadyToStartContainers", holds=self.sandbox is not None),
                self._condition("Initialized", holds=True),
                self._condition("ContainersReady", holds=ready),
                self._condition("Ready", holds=ready),
            ],
            "containerStatuses": [
                self._container_status(spec) for spec in self._pod["spec"]["containers"]
            ],
        }
        if message:
            status["message"] = message
        if self.sandbox is not None:
            status |= {
                "podIP": self.sandbox.address,
                "podIPs": [{"ip": self.sandbox.address}],
            }
        return status

    def _condition(self, kind: str, *, holds: bool) -> dict[str, str]:
        value = str(holds)
        if self._since.get(kind, ("", ""))[0] != value:
            self._since[kind] = (value, _now())
        return {"type": kind, "status": value, "lastTransitionTime": self._since[kind][1]}

    def _container_status(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        name = spec["name"]
        container = self.containers.get(name)
        state: dict[str, Any]
        if container is None:
            state = {"waiting": {"reason": "ContainerCreating"}}
        elif container.exit_code is None:
            state = {"running": {"startedAt": self._started_at}}
        else:
            state = {"terminated": {"exitCode": container.exit_code}}
        return {
            "name": name,
            "image": spec.get("image", ""),
            "imageID": "",
            "containerID": f"containerd://{container.id}" if container else "",
            "ready": bool(self._ready.get(name)) and "running" in state,
            "started": "running" in state,
            "restartCount": self._restarts.get(name, 0),
            "state": state,
        }


def _now() -> str:
    """The time as Kubernetes writes it."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
