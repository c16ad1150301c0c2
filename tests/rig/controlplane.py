"""A Kubernetes control plane: etcd, the API server, the controllers and the scheduler.

All upstream's own programs, configured as an installer would: TLS, RBAC and the Node authorizer,
and service account tokens bound to pods and nodes. They run on one machine made of namespaces;
the test talks to the API server through a port on its loopback.
"""

from __future__ import annotations

import contextlib
import ssl
import urllib.request
from typing import TYPE_CHECKING, Any, Self

import yaml
from lightkube import Client, KubeConfig
from lightkube.resources.core_v1 import ServiceAccount
from tests.rig import objects, programs
from tests.rig.forward import Forward
from tests.rig.machine import Machine
from tests.rig.pki import ClusterCA, write_key
from tests.rig.programs import Program

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ADDRESS = "172.30.0.1"
PORT = 6443
ADDRESS_6 = "fd30::1"
SERVICES = "10.96.0.0/16"
SERVICES_6 = "fd96::/112"
PODS = "10.244.0.0/16"
PODS_6 = "fd44::/48"
SERVICE_ADDRESS = "10.96.0.1"
_ETCD_DATA = "/run/etcd"

_ADMIN = ("admin", ("system:masters",))

# What workloads and identities need; no cloud, no storage, and no opinion about nodes' health.
_CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "certificatesigningrequest-cleaner-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "endpoints-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "service-cidr-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
)


class ControlPlane:
    """The control plane of a test cluster.

    Args:
        directory: For its keys, data and logs; best short-lived and in memory.
        real_nodes: Whether its nodes have upstream's kubelets, which it talks to and whose health
            it has an opinion about. Pods and services have addresses of both families then.
    """

    def __init__(self, directory: Path, *, real_nodes: bool = False) -> None:
        self.directory = directory
        self._real_nodes = real_nodes
        self.machine = Machine("control-plane", directory / "control-plane")
        self._pki = directory / "pki"
        self.logs = directory / "logs"
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._pki.mkdir()
        self.logs.mkdir()
        kubernetes = programs.find("kubernetes")
        etcd = programs.find("etcd")
        with contextlib.ExitStack() as ends:
            ends.enter_context(self.machine)
            self.machine.ip(
                "link add nodes type bridge",
                f"addr add {ADDRESS}/24 dev nodes",
                *([f"addr add {ADDRESS_6}/64 dev nodes nodad"] if self._real_nodes else []),
                "link set nodes up",
                # Nothing leads out of the cluster.
                "route add prohibit default",
            )
            self.machine.forward()
            # In memory: what a write costs is not to depend on who else waits for the disk.
            self.machine.run("sh", "-c", f"mkdir {_ETCD_DATA} && mount -t tmpfs etcd {_ETCD_DATA}")
            self.port = ends.enter_context(Forward(self.machine.netns, ADDRESS, PORT)).port
            self._ca = ClusterCA(self._pki)
            self._configure(kubernetes, etcd)
            for program in self.programs:
                ends.callback(program.kill)
            self._start()
            self.client = ends.enter_context(self.client_of(*_ADMIN))
            self._await_controllers()
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    @property
    def programs(self) -> tuple[Program, ...]:
        """Its programs, in the order of their start."""
        return (self.etcd, self.apiserver, self.controllers, self.scheduler)

    @property
    def authority(self) -> Path:
        """The certificate of the cluster's authority."""
        return self._ca.certificate

    @contextlib.contextmanager
    def without_apiserver(self) -> Iterator[None]:
        """Have no API server while the block runs."""
        self.apiserver.kill()
        try:
            yield
        finally:
            self._start_apiserver()

    def kubeconfig(
        self, user: str = _ADMIN[0], groups: Sequence[str] = (), *, outside: bool = False
    ) -> Path:
        """A kubeconfig file with a client certificate of the user, for use on the machines.

        Args:
            user: The user's name; the administrator if none is given.
            groups: The groups, apart from ``system:authenticated``.
            outside: For use by the test's own process instead.
        """
        if user == _ADMIN[0]:
            groups = _ADMIN[1]
        slug = user.replace(":", "-")
        certificate, key = self._pki / f"{slug}.crt", self._pki / f"{slug}.key"
        if not certificate.exists():
            self._ca.issue(slug, user, groups=groups)
        file = self._pki / f"{slug}{'-outside' if outside else ''}.kubeconfig"
        return self._write_kubeconfig(
            file, {"client-certificate": str(certificate), "client-key": str(key)}, outside=outside
        )

    def token_kubeconfig(self, name: str, token: str, *, outside: bool = False) -> Path:
        """A kubeconfig file with a bearer token; the name is the file's alone."""
        file = self._pki / f"{name}{'-outside' if outside else ''}.token.kubeconfig"
        return self._write_kubeconfig(file, {"token": token}, outside=outside)

    def client_of(self, user: str, groups: Sequence[str] = ()) -> Client:
        """A client for the test's own process that is the user; the caller closes it."""
        return self._client(self.kubeconfig(user, groups, outside=True))

    def client_with(self, token: str) -> Client:
        """A client for the test's own process with a bearer token; the caller closes it."""
        return self._client(self.token_kubeconfig("bearer", token, outside=True))

    def apply(self, manifests: str | dict[str, Any]) -> None:
        """Apply manifests (YAML, or one object) as the administrator."""
        objects.apply(self.client, manifests)

    def kubectl(self, *arguments: str, check: bool = True, **options: Any) -> str:
        """What `kubectl` says, run by the administrator on the control plane's machine."""
        kubeconfig = f"--kubeconfig={self.kubeconfig()}"
        return self.machine.run(
            str(self.binaries / "kubectl"), kubeconfig, *arguments, check=check, **options
        ).stdout

    def _client(self, kubeconfig: Path) -> Client:
        return Client(
            KubeConfig.from_file(kubeconfig), field_manager="troth-tests", trust_env=False
        )

    def _start(self) -> None:
        self.etcd.start()
        self._start_apiserver()
        self.controllers.start()
        self.scheduler.start()

    def _start_apiserver(self) -> None:
        self.apiserver.start()
        self.apiserver.await_ready(self._readyz)

    def _await_controllers(self) -> None:
        # Pods can be made in a namespace once it has a service account.
        self.controllers.await_ready(
            lambda: objects.find(self.client, ServiceAccount, "default", "default") is not None
        )

    def _readyz(self) -> bool:
        trust = ssl.create_default_context(cafile=self._ca.certificate)
        trust.load_cert_chain(self._pki / "admin.crt", self._pki / "admin.key")
        try:
            url = f"https://127.0.0.1:{self.port}/readyz"
            with urllib.request.urlopen(url, timeout=5, context=trust) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def _write_kubeconfig(self, file: Path, user: dict[str, str], *, outside: bool) -> Path:
        server = f"https://127.0.0.1:{self.port}" if outside else f"https://{ADDRESS}:{PORT}"
        cluster = {"server": server, "certificate-authority": str(self._ca.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
            "current-context": "test",
        }
        # Another program may be reading it right now.
        fresh = file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(yaml.safe_dump(config))
        return fresh.replace(file)

    def _configure(self, kubernetes: Path, etcd: Path) -> None:
        self.binaries = kubernetes
        self.kubeconfig()
        service_accounts = write_key(self._pki / "service-accounts.key")
        self.etcd = self._program(
            str(etcd),
            f"--data-dir={_ETCD_DATA}",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            # Without it Debian's version has no bookmarks for watches on which nothing happens.
            *(["--experimental-watch-progress-notify-interval=5s"] if self._real_nodes else []),
        )
        self.apiserver = self._program(
            str(kubernetes / "kube-apiserver"), *self._apiserver_flags(service_accounts)
        )
        self.controllers = self._program(
            str(kubernetes / "kube-controller-manager"),
            f"--kubeconfig={self.kubeconfig('system:kube-controller-manager')}",
            f"--controllers={'*' if self._real_nodes else ','.join(_CONTROLLERS)}",
            f"--root-ca-file={self._ca.certificate}",
            f"--service-account-private-key-file={service_accounts}",
            "--use-service-account-credentials",
            "--leader-elect=false",
        )
        self.scheduler = self._program(
            str(kubernetes / "kube-scheduler"),
            f"--kubeconfig={self.kubeconfig('system:kube-scheduler')}",
            "--leader-elect=false",
        )

    def _apiserver_flags(self, service_accounts: Path) -> tuple[str, ...]:
        certificate, key = self._ca.issue(
            "apiserver",
            "kube-apiserver",
            names=("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"),
            addresses=(ADDRESS, SERVICE_ADDRESS, "127.0.0.1"),
        )
        return (
            f"--advertise-address={ADDRESS}",
            f"--secure-port={PORT}",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--service-cluster-ip-range={SERVICES}{f',{SERVICES_6}' if self._real_nodes else ''}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            f"--client-ca-file={self._ca.certificate}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={service_accounts}",
            f"--service-account-signing-key-file={service_accounts}",
            # A stopped API server should not wait for watchers.
            "--shutdown-delay-duration=0s",
            *(self._kubelet_flags() if self._real_nodes else ()),
        )

    def _kubelet_flags(self) -> tuple[str, ...]:
        """How the API server talks to kubelets, for logs and commands in pods."""
        user = "kube-apiserver-kubelet-client"
        certificate, key = self._ca.issue(user, user, groups=("system:masters",))
        return (
            f"--kubelet-client-certificate={certificate}",
            f"--kubelet-client-key={key}",
            "--kubelet-preferred-address-types=InternalIP",
        )

    def _program(self, binary: str, *flags: str) -> Program:
        name = binary.rpartition("/")[2]
        return Program(self.machine, binary, *flags, log=self.logs / f"{name}.log")
