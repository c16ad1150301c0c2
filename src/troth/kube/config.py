"""Which cluster to use, with which credentials: from kubeconfig files, as kubectl reads them.

``--kubeconfig`` names a single file; else ``KUBECONFIG`` lists files, where the first to set a
value wins; else it is ``~/.kube/config``. Without any, in a pod, it is the pod's service account.

lightkube provides the kubeconfig's parts, TLS, and credentials with rotated tokens.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import msgspec
import yaml
from lightkube import ConfigError, KubeConfig, SingleConfig
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.models import NameValue, User

from troth.errors import EnvironmentLackError, InputError, Problem
from troth.kube.errors import legible
from troth.syntax import choices

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from httpcore2 import AsyncNetworkStream
    from lightkube.config.models import Cluster, UserExec

T = TypeVar("T")

REQUEST_SECONDS = 30.0
"""How long an API server may be silent before a request fails."""

_DEFAULT = Path("~/.kube/config")
_EXEC_GROUP = "client.authentication.k8s.io"
_REMEDY = "name a kubeconfig with --kubeconfig or KUBECONFIG"


def cluster_config(kubeconfig: Path | None = None, context: str | None = None) -> SingleConfig:
    """The API server's address, and the credentials for it.

    Args:
        kubeconfig: The file; by default as kubectl finds it.
        context: The context; by default the current one.

    Raises:
        InputError: There is no such file or context.
        EnvironmentLackError: No cluster is configured, or the configuration can't be used.
    """
    files = [kubeconfig] if kubeconfig else _usual_files()
    if kubeconfig and not kubeconfig.exists():
        raise _wrong(f"kubeconfig {kubeconfig}", "there is no such file", "name one that exists")
    configs = [_read(file) for file in files if file.exists()]
    if not configs and context is None:
        return _of_the_pod()
    name = context or next((each.current_context for each in configs if each.current_context), None)
    if name is None:
        raise EnvironmentLackError("no access to a cluster: no context is chosen", "use --context")
    found = _first([each.contexts for each in configs], name)
    if found is None:
        known = sorted({known for each in configs for known in each.contexts})
        raise _wrong(f"context {name}", "is in no kubeconfig", choices(name, known))
    cluster = _first([_clusters(each) for each in configs], found.cluster)
    if cluster is None:
        raise _undescribed(name, f"cluster {found.cluster}")
    user = _first([_users(each) for each in configs], found.user) if found.user else None
    if user is None and found.user:
        raise _undescribed(name, f"user {found.user}")
    return SingleConfig(name, found, cluster, user)


def program_config(kubeconfig: Path | None = None, *, otherwise: str) -> SingleConfig:
    """The API server's address and credentials for a daemon.

    They come from the file if one is given, else from the pod's service account, else from
    KUBECONFIG or ``~/.kube/config``. (Interactive commands use kubectl's order: `cluster_config`.)

    Args:
        kubeconfig: The file.
        otherwise: The remedy if there is no service account, for the error.

    Raises:
        EnvironmentLackError: None of them exists, or it is invalid.
    """
    remedy = f"run it in a pod with a service account, or {otherwise}"
    try:
        found = KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_env()
        config = found.get()
    except (ConfigError, OSError, KeyError, ValueError, TypeError) as error:
        words = str(error) or type(error).__name__
        raise EnvironmentLackError(f"no access to a cluster: {words}", remedy) from error
    if config is None:
        raise EnvironmentLackError("no access to a cluster: no current context", remedy)
    return config


def http_client(config: SingleConfig) -> httpx2.AsyncClient:
    """A client for HTTP requests to the API server; its owner closes it.

    Args:
        config: The server's address and the credentials for it.

    Raises:
        EnvironmentLackError: The configuration can't be used.
    """
    try:
        client = AsyncClient(
            config._replace(user=config.user or User()),
            ConnectionParams(timeout=httpx2.Timeout(REQUEST_SECONDS)),
        )
    except (ConfigError, OSError, ValueError, httpx2.InvalidURL) as error:
        raise EnvironmentLackError(
            f"the Kubernetes configuration can't be used: {legible(error)}",
            "correct the kubeconfig, or mount the service account's token and CA",
        ) from error
    client.event_hooks = {"request": [_close_if_cancelled]}
    return client


async def _close_if_cancelled(request: httpx2.Request) -> None:
    # httpcore closes a connection whose TLS handshake fails, but not if it is cancelled.
    connected: list[AsyncNetworkStream] = []

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        match event:
            case "connection.connect_tcp.complete":
                connected.append(info["return_value"])
            case "connection.start_tls.failed":
                await connected.pop().aclose()

    request.extensions = {**request.extensions, "trace": trace}


def _undescribed(context: str, what: str) -> EnvironmentLackError:
    return EnvironmentLackError(
        f"context {context} is for {what}, which no kubeconfig describes", _REMEDY
    )


def _usual_files() -> list[Path]:
    listed = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    return [Path(file) for file in listed if file] or [_DEFAULT.expanduser()]


def _read(file: Path) -> KubeConfig:
    try:
        content = yaml.safe_load(file.read_text())
        if not isinstance(content, dict):
            raise TypeError("it is not a mapping")  # noqa: TRY301 - same message as below
        said = {key: value for key, value in content.items() if value is not None}
        return KubeConfig.from_dict({"clusters": [], "contexts": [], **said}, fname=file.absolute())
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        yaml.YAMLError,
        msgspec.MsgspecError,
    ) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise EnvironmentLackError(
            f"{file} can't be used as kubeconfig: {words}", _REMEDY
        ) from error


def _of_the_pod() -> SingleConfig:
    try:
        config = KubeConfig.from_service_account().get()
    except (ConfigError, OSError, KeyError) as error:
        raise EnvironmentLackError(
            "no access to a cluster: there is no kubeconfig", _REMEDY
        ) from error
    if config is None:
        raise AssertionError("a service account's configuration has a current context")
    return config


def _clusters(config: KubeConfig) -> Mapping[str, Cluster]:
    return {
        name: msgspec.structs.replace(each, certificate_auth=_beside(config, each.certificate_auth))
        for name, each in config.clusters.items()
    }


def _users(config: KubeConfig) -> Mapping[str, User]:
    return {
        name: msgspec.structs.replace(
            each,
            token_file=_beside(config, each.token_file),
            client_cert=_beside(config, each.client_cert),
            client_key=_beside(config, each.client_key),
            exec=_plugin(each.exec) if each.exec else None,
        )
        for name, each in config.users.items()
    }


def _beside(config: KubeConfig, file: str | None) -> str | None:
    """A path in a kubeconfig, which is relative to the file."""
    if not file or config.fname is None:
        return file
    return str(config.fname.parent / file)


def _plugin(plugin: UserExec) -> UserExec:
    """A credential plugin for lightkube to run, with the input that kubectl gives it.

    lightkube knows v1beta1 of the plugins' API, which has the same output as v1.
    """
    told = {
        "apiVersion": plugin.apiVersion,
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }
    info = NameValue(name="KUBERNETES_EXEC_INFO", value=json.dumps(told))
    version = f"{_EXEC_GROUP}/v1beta1" if plugin.apiVersion == f"{_EXEC_GROUP}/v1" else None
    return msgspec.structs.replace(
        plugin, apiVersion=version or plugin.apiVersion, env=[info, *(plugin.env or ())]
    )


def _first(places: Sequence[Mapping[str, T]], name: str) -> T | None:
    return next((place[name] for place in places if name in place), None)


def _wrong(subject: str, found: str, wanted: str) -> InputError:
    return InputError([Problem(subject=subject, path="", found=found, wanted=wanted)])
