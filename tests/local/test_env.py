from __future__ import annotations

from typing import Any

import pytest

from troth.errors import InputError
from troth.local.env import EnvironmentSources, command_line, environment, from_host
from troth.manifests.workloads import (
    ConfigMap,
    Container,
    EnvFrom,
    EnvVar,
    KeyRef,
    PodTemplate,
    Secret,
)
from troth.mesh.model import Pod, Protocol, Service, ServicePort

POD = Pod(
    uid="uid-1",
    namespace="finance",
    name="web-0",
    labels={"app.kubernetes.io/name": "web"},
    service_account="web",
    node="local",
    addresses=("10.244.0.2", "fd00::2"),
)
SERVICE = Service(
    namespace="finance",
    name="pay-ments",
    cluster_ips=("10.96.0.9",),
    ports=(
        ServicePort(number=80, name="http-api"),
        ServicePort(number=53, name="dns", protocol=Protocol.UDP),
    ),
)
WORLD = EnvironmentSources(
    config_maps={
        "finance/settings": ConfigMap(
            namespace="finance", name="settings", data={"level": "debug", "mode": "fast"}
        ),
        "ops/foreign": ConfigMap(namespace="ops", name="foreign", data={"level": "x"}),
    },
    secrets={
        "finance/login": Secret(
            namespace="finance", name="login", data={"user": b"me", "raw": b"\xff\xfe"}
        )
    },
    services=(SERVICE,),
    host_addresses=("10.244.0.1", "fd00::1"),
)


def env_of(
    *variables: EnvVar, env_from: tuple[EnvFrom, ...] = (), links: bool = False, **template: Any
) -> dict[str, str]:
    container = Container(name="app", env=variables, env_from=env_from)
    made = PodTemplate(namespace="finance", name="web-0", enable_service_links=links, **template)
    return environment(container, made, POD, WORLD, {"PATH": "/bin"})


def test_path_home_and_lang_come_from_the_host_and_nothing_else() -> None:
    host = {"PATH": "/bin", "HOME": "/home/me", "AWS_SECRET_ACCESS_KEY": "x", "LC_ALL": "C"}
    assert from_host(host) == {"PATH": "/bin", "HOME": "/home/me"}


def test_a_manifest_replaces_what_comes_from_the_host() -> None:
    assert env_of(EnvVar(name="PATH", value="/app")) == {"PATH": "/app", "HOSTNAME": "web-0"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metadata.name", "web-0"),
        ("metadata.namespace", "finance"),
        ("metadata.uid", "uid-1"),
        ("metadata.labels['app.kubernetes.io/name']", "web"),
        ("metadata.labels['missing']", ""),
        ("metadata.annotations['note']", "a's"),
        ("spec.serviceAccountName", "web"),
        ("spec.nodeName", "local"),
        ("status.podIP", "10.244.0.2"),
        ("status.podIPs", "10.244.0.2,fd00::2"),
        ("status.hostIP", "10.244.0.1"),
        ("status.hostIPs", "10.244.0.1,fd00::1"),
    ],
)
def test_a_field_of_the_pod_becomes_a_variable(field: str, value: str) -> None:
    assert env_of(EnvVar(name="X", field_path=field), annotations={"note": "a's"})["X"] == value


def test_keys_of_config_maps_and_secrets_become_variables() -> None:
    env = env_of(
        EnvVar(name="LEVEL", config_map_key=KeyRef(name="settings", key="level")),
        EnvVar(name="USER", secret_key=KeyRef(name="login", key="user")),
    )
    assert (env["LEVEL"], env["USER"]) == ("debug", "me")


def test_bytes_that_are_no_text_go_through_unchanged() -> None:
    env = env_of(EnvVar(name="RAW", secret_key=KeyRef(name="login", key="raw")))
    assert env["RAW"].encode(errors="surrogateescape") == b"\xff\xfe"


def test_env_replaces_env_from_and_a_later_source_an_earlier_one() -> None:
    env = env_of(
        EnvVar(name="P_mode", value="slow"),
        env_from=(
            EnvFrom(config_map="settings", prefix="P_"),
            EnvFrom(secret="login"),  # noqa: S106 - a Secret's name
        ),
    )
    assert (env["P_level"], env["P_mode"], env["user"]) == ("debug", "slow", "me")


def test_a_value_may_name_earlier_variables_and_service_links_but_not_later_ones() -> None:
    env = env_of(
        EnvVar(name="A", value="$(B)"),
        EnvVar(name="B", value="b"),
        EnvVar(name="C", value="$(B) $(level) $$(B) $(PAY_MENTS_SERVICE_HOST)"),
        env_from=(EnvFrom(config_map="settings"),),
        links=True,
    )
    assert env["A"] == "$(B)"
    assert env["C"] == "b debug $(B) 10.96.0.9"


def test_optional_references_that_lead_nowhere_leave_the_variable_out() -> None:
    env = env_of(
        EnvVar(name="A", config_map_key=KeyRef(name="none", key="x", optional=True)),
        EnvVar(name="B", secret_key=KeyRef(name="login", key="none", optional=True)),
        env_from=(EnvFrom(config_map="none", optional=True),),
    )
    assert env == {"PATH": "/bin", "HOSTNAME": "web-0"}


def test_every_reference_that_leads_nowhere_is_listed() -> None:
    with pytest.raises(InputError) as refused:
        env_of(
            EnvVar(name="A", config_map_key=KeyRef(name="foreign", key="level")),
            EnvVar(name="B", secret_key=KeyRef(name="login", key="none")),
            EnvVar(name="C", field_path="status.phase"),
            env_from=(EnvFrom(secret="none"),),  # noqa: S106 - a Secret's name
        )
    subject = "Pod finance/web-0: spec.containers[app]."
    remedy = "; create it, correct the reference, or mark it optional"
    assert str(refused.value).splitlines() == [
        f"{subject}envFrom[0].secretRef.name: there is no Secret 'none'{remedy}",
        f"{subject}env[A].valueFrom: there is no ConfigMap 'foreign'{remedy}",
        f"{subject}env[B].valueFrom: Secret 'login' has no key 'none'{remedy}",
        f"{subject}env[C].valueFrom: there is no field 'status.phase'{remedy}",
    ]


def test_services_of_the_namespace_become_variables_unless_links_are_off() -> None:
    env = env_of(links=True)
    expected = {
        "PAY_MENTS_SERVICE_HOST": "10.96.0.9",
        "PAY_MENTS_SERVICE_PORT": "80",
        "PAY_MENTS_SERVICE_PORT_HTTP_API": "80",
        "PAY_MENTS_SERVICE_PORT_DNS": "53",
        "PAY_MENTS_PORT": "tcp://10.96.0.9:80",
        "PAY_MENTS_PORT_80_TCP": "tcp://10.96.0.9:80",
        "PAY_MENTS_PORT_80_TCP_PROTO": "tcp",
        "PAY_MENTS_PORT_80_TCP_PORT": "80",
        "PAY_MENTS_PORT_80_TCP_ADDR": "10.96.0.9",
        "PAY_MENTS_PORT_53_UDP": "udp://10.96.0.9:53",
        "PAY_MENTS_PORT_53_UDP_PROTO": "udp",
        "PAY_MENTS_PORT_53_UDP_PORT": "53",
        "PAY_MENTS_PORT_53_UDP_ADDR": "10.96.0.9",
    }
    assert env == {"PATH": "/bin", "HOSTNAME": "web-0", **expected}
    assert env_of(links=False) == {"PATH": "/bin", "HOSTNAME": "web-0"}


def test_command_and_args_are_joined_and_expanded() -> None:
    container = Container(name="app", command=("serve", "--at=$(IP)"), args=("$(X)", "$$(IP)"))
    assert command_line(container, {"IP": "::1"}) == ["serve", "--at=::1", "$(X)", "$(IP)"]
