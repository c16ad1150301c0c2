from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from troth.errors import Severity
from troth.manifests.runnable import runnable_problems
from troth.manifests.workloads import (
    DnsConfig,
    DnsPolicy,
    EnvFrom,
    EnvVar,
    Hook,
    HostAlias,
    HttpGet,
    KeyRef,
    Probe,
    Projection,
    ResourceRef,
    RestartPolicy,
    Security,
    Volume,
    VolumeKind,
    VolumeMount,
)
from troth.mesh.model import ContainerPort, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from troth.manifests.collect import Manifests


LONG_DOMAINS = [f"{'a' * 60}.{'b' * 60}.d{number}" for number in range(20)]


def pod(container: str = "", spec: str = "", metadata: str = "") -> str:
    """A Pod with one container, each part given as lines of YAML."""
    return (
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n"
        + textwrap.indent(metadata, "  ")
        + "\nspec:\n"
        + textwrap.indent(spec, "  ")
        + "\n  containers:\n  - name: app\n"
        + textwrap.indent(container, "    ")
    )


def deployment(spec: str = "", template: str = "") -> str:
    return (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n"
        + textwrap.indent(spec or "selector: {matchLabels: {app: web}}", "  ")
        + "\n  template:\n    metadata: {labels: {app: web, tier: front}}\n"
        + "    spec:\n      containers: [{name: app}]\n"
        + textwrap.indent(template, "      ")
    )


def test_a_pod_has_the_defaults_of_the_api(read: Callable[..., Manifests]) -> None:
    template = read(pod()).pods["default/web"]
    assert template.service_account == "default"
    assert template.restart_policy is RestartPolicy.ALWAYS
    assert template.termination_grace_seconds == 30
    assert template.enable_service_links
    assert not template.host_network
    assert (template.owner, template.owner_kind) == ("", "")
    assert template.containers[0].readiness is None


@pytest.mark.parametrize(
    ("policy", "is_sidecar", "unsupported"),
    [("Always", True, ()), ("OnFailure", False, ("initContainers[0].restartPolicy",))],
)
def test_an_init_container_that_is_always_restarted_is_a_sidecar(
    policy: str, *, is_sidecar: bool, unsupported: tuple[str, ...], read: Callable[..., Manifests]
) -> None:
    init = f"{{name: side, restartPolicy: {policy}, ports: [{{containerPort: 9090}}]}}"
    template = read(pod(spec=f"initContainers: [{init}]")).pods["default/web"]
    (container,) = template.init_containers
    assert (container.is_sidecar, template.unsupported) == (is_sidecar, unsupported)
    assert [port.number for port in template.ports] == ([9090] if is_sidecar else [])


@pytest.mark.parametrize(
    "container",
    [
        "readinessProbe: {httpGet: {port: http}}",
        "securityContext: {runAsUser: 0, runAsNonRoot: true}",
    ],
)
def test_what_an_api_server_takes_and_no_kubelet_runs_is_a_warning(
    container: str, read: Callable[..., Manifests]
) -> None:
    manifests = read(pod(container))
    assert [each.severity for each in manifests.problems] == [Severity.WARNING]
    assert list(manifests.pods) == ["default/web"]


def test_a_negative_grace_period_is_one_second(read: Callable[..., Manifests]) -> None:
    template = read(pod(spec="terminationGracePeriodSeconds: -1")).pods["default/web"]
    assert template.termination_grace_seconds == 1


def test_two_mounts_at_one_place_are_refused(problems: Callable[[str], list[str]]) -> None:
    mounts = "volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /v}]"
    assert problems(pod(mounts, spec="volumes: [{name: v}]")) == [
        'spec.containers[0].volumeMounts: mounts "/v" twice; keep one of them'
    ]


def test_a_job_that_is_always_restarted_is_refused(problems: Callable[[str], list[str]]) -> None:
    job = (
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: web}\nspec:\n"
        "  template: {spec: {restartPolicy: Always, containers: [{name: app}]}}\n"
    )
    assert problems(job) == [
        "spec.template.spec.restartPolicy: is Always; write OnFailure or Never"
    ]


def test_an_apps_own_restart_policy_makes_no_sidecar_of_it(read: Callable[..., Manifests]) -> None:
    template = read(pod("restartPolicy: Always")).pods["default/web"]
    assert not template.containers[0].is_sidecar
    assert template.unsupported == ("containers[0].restartPolicy",)


def test_names_and_how_others_are_looked_up_are_read(read: Callable[..., Manifests]) -> None:
    manifests = read(
        pod(
            spec="hostname: first\nsubdomain: web\nsetHostnameAsFQDN: true\n"
            "hostAliases: [{ip: 10.9.9.9, hostnames: [old.example, older.example]}]\n"
            "dnsPolicy: None\n"
            "dnsConfig: {nameservers: [10.9.9.9], searches: [corp.example, _a.b, .], "
            "options: [{name: ndots, value: '2'}, {name: edns0}]}"
        )
    )
    assert manifests.problems == ()
    template = manifests.pods["default/web"]
    assert (template.hostname, template.subdomain, template.fqdn_as_hostname) == (
        "first",
        "web",
        True,
    )
    assert template.host_aliases == (
        HostAlias(ip="10.9.9.9", hostnames=("old.example", "older.example")),
    )
    assert template.dns == DnsConfig(
        policy=DnsPolicy.NONE,
        nameservers=("10.9.9.9",),
        searches=("corp.example", "_a.b", "."),
        options=(("ndots", "2"), ("edns0", "")),
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "hostAliases: [{hostnames: [a]}]",
            "spec.hostAliases[0].ip: is missing; write the IP that the names stand for",
        ),
        (
            "hostAliases: [{ip: old.example, hostnames: [a]}]",
            'spec.hostAliases[0].ip: is "old.example"; write an IP',
        ),
        (
            "hostAliases: [{ip: 10.9.9.9, hostnames: ['a b']}]",
            (
                "spec.hostAliases[0].hostnames[0]: is \"a b\"; use a-z, 0-9, '-' and '.', each "
                "part beginning and ending with a letter or digit (RFC 1123 subdomain)"
            ),
        ),
        (
            "dnsPolicy: Cluster",
            (
                'spec.dnsPolicy: is "Cluster"; write one of ClusterFirst, '
                "ClusterFirstWithHostNet, Default, None"
            ),
        ),
        (
            "dnsPolicy: None",
            (
                "spec.dnsConfig.nameservers: is missing; "
                "name one, as dnsPolicy None leaves the pod without any"
            ),
        ),
        (
            "dnsConfig: {nameservers: [dns.example]}",
            'spec.dnsConfig.nameservers[0]: is "dns.example"; write an IP',
        ),
        (
            "dnsConfig: {nameservers: [10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4]}",
            "spec.dnsConfig.nameservers: has 4 of them; give no more than 3",
        ),
        (
            f"dnsConfig: {{searches: [{', '.join(f'd{n}.example' for n in range(33))}]}}",
            "spec.dnsConfig.searches: has 33 of them; give no more than 32",
        ),
        (
            f"dnsConfig: {{searches: [{', '.join(LONG_DOMAINS)}]}}",
            "spec.dnsConfig.searches: has more than 2048 characters; leave some out",
        ),
        (
            "dnsConfig: {searches: ['a b']}",
            'spec.dnsConfig.searches[0]: is "a b"; write a DNS domain such as corp.example',
        ),
        (
            "dnsConfig: {options: [{value: '2'}]}",
            "spec.dnsConfig.options[0].name: is missing; name the option, such as ndots",
        ),
        (
            'dnsConfig: {options: [{name: "ndots\\nnameserver"}]}',
            (
                'spec.dnsConfig.options[0].name: is "ndots\\nnameserver"; '
                "write one word, as in resolv.conf(5)"
            ),
        ),
        (
            "dnsConfig: {servers: []}",
            (
                "spec.dnsConfig.servers: is an unknown field and has no effect; "
                "did you mean nameservers?"
            ),
        ),
    ],
)
def test_bad_names_and_ways_to_look_them_up_are_named_with_the_reason(
    spec: str, message: str, problems: Callable[[str], list[str]]
) -> None:
    assert problems(pod(spec=spec)) == [message]


def test_every_field_of_a_container_is_read(read: Callable[..., Manifests]) -> None:
    text = pod(
        container="""\
image: example.org/app
command: [serve]
args: [--port, $(PORT)]
workingDir: /srv
ports:
- {containerPort: 8080, name: http}
- {containerPort: 53, protocol: UDP}
env:
- {name: PORT, value: "8080"}
- {name: EMPTY}
- {name: MODE, valueFrom: {configMapKeyRef: {name: conf, key: mode, optional: true}}}
- {name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}}
- {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
envFrom:
- {configMapRef: {name: conf, optional: true}, prefix: C_}
- {secretRef: {name: keys}}
readinessProbe:
  httpGet: {path: ready, port: http, httpHeaders: [{name: X, value: x}]}
  periodSeconds: 0
  failureThreshold: 5
volumeMounts:
- {name: data, mountPath: /data, subPath: a/b, readOnly: true}
""",
        spec="volumes: [{name: data, emptyDir: {}}]",
    )
    manifests = read(text)
    assert manifests.problems == ()
    (container,) = manifests.pods["default/web"].containers
    assert container.image == "example.org/app"
    assert container.command == ("serve",)
    assert container.args == ("--port", "$(PORT)")
    assert container.working_dir == "/srv"
    assert container.ports == (
        ContainerPort(number=8080, name="http"),
        ContainerPort(number=53, protocol=Protocol.UDP),
    )
    assert container.env == (
        EnvVar(name="PORT", value="8080"),
        EnvVar(name="EMPTY"),
        EnvVar(name="MODE", config_map_key=KeyRef(name="conf", key="mode", optional=True)),
        EnvVar(name="TOKEN", secret_key=KeyRef(name="keys", key="token")),
        EnvVar(name="IP", field_path="status.podIP"),
    )
    assert container.env_from == (
        EnvFrom(config_map="conf", prefix="C_", optional=True),
        EnvFrom(secret="keys"),  # noqa: S106 - the name of a Secret
    )
    assert container.readiness == Probe(
        http_get=HttpGet(port=8080, path="/ready", headers=(("X", "x"),)), failure_threshold=5
    )
    assert container.volume_mounts == (
        VolumeMount(name="data", mount_path="/data", sub_path="a/b", read_only=True),
    )


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("{tcpSocket: {port: 80}}", Probe(tcp_port=80)),
        ("{exec: {command: [test, -f, /x]}}", Probe(command=("test", "-f", "/x"))),
        (
            (
                "{httpGet: {port: 443, scheme: HTTPS}, initialDelaySeconds: 1, periodSeconds: 2, "
                "timeoutSeconds: 3, successThreshold: 4}"
            ),
            Probe(
                http_get=HttpGet(port=443, scheme="HTTPS"),
                initial_delay=1,
                period=2,
                timeout=3,
                success_threshold=4,
            ),
        ),
    ],
    ids=["tcp", "exec", "https-with-times"],
)
def test_probes_are_read(probe: str, expected: Probe, read: Callable[..., Manifests]) -> None:
    manifests = read(pod(f"readinessProbe: {probe}"))
    assert manifests.problems == ()
    assert manifests.pods["default/web"].containers[0].readiness == expected


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ("{exec: {command: [nginx, -s, quit]}}", Hook(command=("nginx", "-s", "quit"))),
        ("{httpGet: {port: 80, path: /drain}}", Hook(http_get=HttpGet(port=80, path="/drain"))),
        ("{sleep: {seconds: 5}}", Hook(sleep=5)),
    ],
    ids=["exec", "http", "sleep"],
)
def test_lifecycle_hooks_are_read(
    hook: str, expected: Hook, read: Callable[..., Manifests]
) -> None:
    manifests = read(pod(f"lifecycle: {{postStart: {hook}, preStop: {hook}}}"))
    assert manifests.problems == ()
    (container,) = manifests.pods["default/web"].containers
    assert (container.post_start, container.pre_stop) == (expected, expected)


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (
            "{configMap: {name: conf, defaultMode: 256}}",
            Volume(
                name="v",
                kind=VolumeKind.CONFIG_MAP,
                files=(Projection(kind=VolumeKind.CONFIG_MAP, source="conf"),),
                mode=0o400,
            ),
        ),
        (
            "{secret: {secretName: keys, optional: true, items: [{key: a, path: b/c}]}}",
            Volume(
                name="v",
                kind=VolumeKind.SECRET,
                files=(
                    Projection(
                        kind=VolumeKind.SECRET, source="keys", items={"a": "b/c"}, optional=True
                    ),
                ),
            ),
        ),
        (
            (
                "{projected: {sources: [{secret: {name: keys}}, {downwardAPI: {items: ["
                "{path: labels, fieldRef: {fieldPath: metadata.labels}}, "
                "{path: cpu, resourceFieldRef: {resource: limits.cpu, divisor: 1m}}]}}]}}"
            ),
            Volume(
                name="v",
                kind=VolumeKind.PROJECTED,
                files=(
                    Projection(kind=VolumeKind.SECRET, source="keys"),
                    Projection(
                        kind=VolumeKind.DOWNWARD,
                        fields={"labels": "metadata.labels"},
                        resources={"cpu": ResourceRef(resource="limits.cpu", divisor="1m")},
                    ),
                ),
            ),
        ),
        (
            "{persistentVolumeClaim: {claimName: data, readOnly: true}}",
            Volume(name="v", kind=VolumeKind.CLAIM, source="data", read_only=True),
        ),
        ("{emptyDir: {}}", Volume(name="v", kind=VolumeKind.EMPTY_DIR)),
        ("{}", Volume(name="v", kind=VolumeKind.EMPTY_DIR)),
        ("{hostPath: {path: /srv}}", Volume(name="v", kind=VolumeKind.HOST_PATH, source="/srv")),
        ("{nfs: {}}", Volume(name="v", kind=VolumeKind.OTHER, source="nfs")),
        ("{other: {}}", Volume(name="v", kind=VolumeKind.OTHER, source="other")),
    ],
    ids=[
        *("config-map", "secret", "projected", "claim", "empty-dir", "none-is-empty-dir"),
        *("host-path", "known", "unknown"),
    ],
)
def test_volumes_are_told_apart(
    volume: str, expected: Volume, read: Callable[..., Manifests]
) -> None:
    entry = volume.replace("{", "{name: v, ", 1).replace(", }", "}")
    manifests = read(pod(spec=f"volumes: [{entry}]"))
    assert manifests.problems == ()
    assert manifests.pods["default/web"].volumes == (expected,)


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (
            "command: serve",
            'command: is "serve"; write a list',
        ),
        (
            "args: [8080]",
            "args[0]: is the number 8080; put quotes around it to make it a string",
        ),
        (
            "ports: [{containerPort: 65536}]",
            "ports[0].containerPort: is the number 65536; write a whole number, 1 to 65535",
        ),
        (
            "ports: [{containerPort: true}]",
            "ports[0].containerPort: is the boolean true; write a whole number, 1 to 65535",
        ),
        (
            "ports: [{name: http}]",
            "ports[0].containerPort: is missing; write a port, 1 to 65535",
        ),
        (
            "ports: [{containerPort: 1, protocol: tcp}]",
            'ports[0].protocol: is "tcp"; write one of TCP, UDP, SCTP',
        ),
        (
            "ports: [{containerPort: 1, name: '80'}]",
            (
                "ports[0].name: is \"80\"; use up to 15 of a-z, 0-9 and '-', with a letter among "
                "them (RFC 6335)"
            ),
        ),
        (
            "ports: [{containerPort: 1, name: a}, {containerPort: 2, name: a}]",
            'ports: has the port "a" twice; give each its own name',
        ),
        (
            "ports: [80]",
            "ports[0]: is the number 80; write a mapping",
        ),
        (
            "env: [{name: A, value: 1}]",
            "env[0].value: is the number 1; put quotes around it to make it a string",
        ),
        (
            "env: [{value: x}]",
            "env[0].name: is missing; name the variable",
        ),
        (
            "env: [{name: A=B}]",
            "env[0].name: is \"A=B\"; use printable ASCII characters other than '='",
        ),
        (
            "env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: a}}}]",
            "env[0].valueFrom: stands beside a value; keep one of the two",
        ),
        (
            "env: [{name: A, valueFrom: {}}]",
            (
                "env[0].valueFrom: is empty; write one of configMapKeyRef, secretKeyRef, fieldRef, "
                "resourceFieldRef"
            ),
        ),
        (
            "env: [{name: A, valueFrom: {secretKeyRef: {name: x}}}]",
            "env[0].valueFrom.secretKeyRef.key: is missing; name a key of it",
        ),
        (
            "envFrom: [{prefix: A_}]",
            "envFrom[0]: names no single source; write configMapRef or secretRef",
        ),
        (
            "readinessProbe: {}",
            "readinessProbe: does nothing; write one of httpGet, tcpSocket, exec, grpc",
        ),
        (
            "readinessProbe: {tcpSocket: {port: 1}, exec: {command: [x]}}",
            "readinessProbe: has tcpSocket and exec; write one of httpGet, tcpSocket, exec, grpc",
        ),
        (
            "readinessProbe: {exec: {}}",
            "readinessProbe.exec.command: is missing; write the command to run",
        ),
        (
            "readinessProbe: {tcpSocket: {port: http}}",
            (
                'readinessProbe.tcpSocket.port: is "http", which no port of the container is '
                "called, so it always fails; name one that it declares, or write a number"
            ),
        ),
        (
            'readinessProbe: {httpGet: {port: 1, path: "/\\r\\nHost: x"}}',
            "readinessProbe.httpGet: contains a line break; write path and headers in one line",
        ),
        (
            "lifecycle: {preStop: {}}",
            "lifecycle.preStop: does nothing; write one of exec, httpGet, sleep",
        ),
        (
            "lifecycle: {preStop: {exec: {command: [x]}, sleep: {seconds: 1}}}",
            "lifecycle.preStop: has exec and sleep; write one of exec, httpGet, sleep",
        ),
        (
            "lifecycle: {preStop: {exec: {}}}",
            "lifecycle.preStop.exec.command: is missing; write the command to run",
        ),
        (
            "lifecycle: {preStop: {sleep: {}}}",
            "lifecycle.preStop.sleep.seconds: is missing; write for how many seconds to wait",
        ),
        (
            "lifecycle: {preStop: {sleep: {seconds: 31}}}",
            (
                "lifecycle.preStop.sleep.seconds: is 31, more than "
                "terminationGracePeriodSeconds, 30; write 30 or less, or a longer grace period"
            ),
        ),
        (
            "lifecycle: {preStop: {tcpSocket: {port: 1}}}",
            (
                "lifecycle.preStop.tcpSocket: is a hook that Kubernetes doesn't run; "
                "write one of exec, httpGet, sleep"
            ),
        ),
        (
            "lifecycle: {preStart: {}}",
            ("lifecycle.preStart: is an unknown field and has no effect; did you mean postStart?"),
        ),
        (
            "volumeMounts: [{name: v, mountPath: /x}]",
            (
                'volumeMounts: mounts "v", which is no volume of the pod; '
                "add it to spec.volumes, or correct the name"
            ),
        ),
    ],
)
def test_a_bad_container_is_refused_with_the_reason(
    container: str, message: str, problems: Callable[[str], list[str]]
) -> None:
    assert problems(pod(container)) == [f"spec.containers[0].{message}"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "volumes: [{name: v}, {name: v}]",
            'spec.volumes: has the volume "v" twice; give each a name of its own',
        ),
        (
            "volumes: [{name: v, emptyDir: {}, hostPath: {path: /}}]",
            'spec.volumes[0]: has "emptyDir" and "hostPath"; keep one source',
        ),
        (
            "volumes: [{name: v, secret: {}}]",
            "spec.volumes[0].secret.secretName: is missing; name the object to show",
        ),
        (
            "volumes: [{name: v, configMap: {name: c, items: [{key: a, path: ../../etc/x}]}}]",
            (
                'spec.volumes[0].configMap.items[0].path: is "../../etc/x"; '
                "write a relative path without '..'"
            ),
        ),
        (
            "initContainers: [{name: app}]",
            'spec.containers: has the container "app" twice; give each a name of its own',
        ),
        (
            "restartPolicy: Sometimes",
            'spec.restartPolicy: is "Sometimes"; write one of Always, OnFailure, Never',
        ),
        (
            "serviceAccountName: Web",
            (
                "spec.serviceAccountName: is \"Web\"; use a-z, 0-9, '-' and '.', each part "
                "beginning and ending with a letter or digit (RFC 1123 subdomain)"
            ),
        ),
        (
            "terminationGracePeriodSeconds: soon",
            (
                'spec.terminationGracePeriodSeconds: is "soon"; '
                "write a whole number, -2147483648 to 2147483647"
            ),
        ),
        (
            "hostNetwork: 'yes'",
            'spec.hostNetwork: is "yes"; write true or false',
        ),
    ],
)
def test_a_bad_pod_is_refused_with_the_reason(
    spec: str, message: str, problems: Callable[[str], list[str]]
) -> None:
    assert problems(pod(spec=spec)) == [message]


def test_a_container_has_its_pods_security_context_but_for_what_it_says_itself(
    read: Callable[..., Manifests],
) -> None:
    container = "securityContext: {runAsUser: 1000, readOnlyRootFilesystem: true}"
    spec = "securityContext: {runAsUser: 5, runAsGroup: 6, supplementalGroups: [7], fsGroup: 8}"
    template = read(pod(container, spec)).pods["default/web"]
    assert template.containers[0].security.over(template.security) == Security(
        user=1000, group=6, groups=(7,), fs_group=8, read_only_root=True
    )


@pytest.mark.parametrize(
    ("context", "found"),
    [
        (
            "{runAsUser: -1}",
            "securityContext.runAsUser: is the number -1; write a whole number, 0 to 2147483647",
        ),
        (
            "{runAsUser: 0, runAsNonRoot: true}",
            "securityContext.runAsUser: is 0 beside runAsNonRoot",
        ),
        ("{supplementalGroups: [root]}", "securityContext.supplementalGroups: has 'root'; write"),
    ],
)
def test_a_bad_security_context_is_refused_with_the_reason(
    problems: Callable[[str], list[str]], context: str, found: str
) -> None:
    (problem,) = problems(pod(spec=f"securityContext: {context}"))
    assert found in problem


def test_a_mount_stays_inside_its_volume(problems: Callable[[str], list[str]]) -> None:
    container = "volumeMounts: [{name: v, mountPath: /x, subPath: a/../../b}]"
    assert problems(pod(container, "volumes: [{name: v}]")) == [
        'spec.containers[0].volumeMounts[0].subPath: is "a/../../b"; stay inside the volume'
    ]


def test_a_misspelt_field_is_a_warning_that_names_the_right_one(
    read: Callable[..., Manifests],
) -> None:
    manifests = read(pod("comand: [x]"))
    (problem,) = manifests.problems
    assert problem.severity is Severity.WARNING
    assert problem.path == "spec.containers[0].comand"
    assert problem.wanted == "did you mean command?"
    assert "default/web" in manifests.pods


def test_service_account_is_the_old_name_of_service_account_name(
    read: Callable[..., Manifests],
) -> None:
    assert read(pod(spec="serviceAccount: a")).pods["default/web"].service_account == "a"
    both = read(pod(spec="serviceAccount: a\nserviceAccountName: b"))
    assert both.pods["default/web"].service_account == "b"


def test_a_deployment_gives_its_template_name_and_owner(read: Callable[..., Manifests]) -> None:
    manifests = read(deployment("replicas: 3\nselector: {matchLabels: {app: web}}"))
    assert manifests.problems == ()
    found = manifests.deployments["default/web"]
    assert found.replicas == 3
    assert found.selector == {"app": "web"}
    template = found.template
    assert (template.name, template.owner, template.owner_kind) == ("web", "web", "Deployment")
    assert template.labels == {"app": "web", "tier": "front"}
    assert manifests.templates == (template,)


@pytest.mark.parametrize(
    ("spec", "template", "message"),
    [
        (
            "selector: {matchLabels: {app: other}}",
            "",
            (
                'spec.selector.matchLabels[app]: is "other", but the template has app: "web"; '
                "let the selector match the template's labels"
            ),
        ),
        (
            "selector: {matchLabels: {role: x}}",
            "",
            (
                'spec.selector.matchLabels[role]: is "x", but the template has no label role; '
                "let the selector match the template's labels"
            ),
        ),
        (
            "selector: {}",
            "",
            "spec.selector: is empty; name a label of the template in matchLabels",
        ),
        (
            "paused: false",
            "",
            "spec.selector: is missing; select the pods by labels of the template",
        ),
        (
            "replicas: -1\nselector: {matchLabels: {app: web}}",
            "",
            "spec.replicas: is the number -1; write a whole number, 0 to 2147483647",
        ),
        (
            "",
            "restartPolicy: Never",
            (
                "spec.template.spec.restartPolicy: is Never; write Always, the only one a "
                "Deployment allows"
            ),
        ),
    ],
)
def test_a_bad_deployment_is_refused_with_the_reason(
    spec: str, template: str, message: str, problems: Callable[[str], list[str]]
) -> None:
    assert problems(deployment(spec, template)) == [message]


@pytest.mark.parametrize(
    ("kind", "api_version", "spec"),
    [
        ("StatefulSet", "apps/v1", "replicas: 1, selector: {matchLabels: {a: b}}, template: "),
        ("DaemonSet", "apps/v1", "selector: {matchLabels: {a: b}}, template: "),
        ("ReplicaSet", "apps/v1", "selector: {matchLabels: {a: b}}, template: "),
        ("Job", "batch/v1", "template: "),
        ("CronJob", "batch/v1", "schedule: '* * * * *', jobTemplate: {spec: {template: "),
    ],
)
def test_other_workloads_have_templates_too(
    kind: str, api_version: str, spec: str, read: Callable[..., Manifests]
) -> None:
    template = "{metadata: {labels: {a: b}}, spec: {containers: [{name: c}]}}"
    close = "}}" if kind == "CronJob" else ""
    manifests = read(
        f"{{apiVersion: {api_version}, kind: {kind}, metadata: {{name: x}}, "
        f"spec: {{{spec}{template}{close}}}}}"
    )
    assert manifests.problems == ()
    assert manifests.workloads[f"{kind} default/x"].kind == kind
    assert [str(each) for each in manifests.templates] == [f"{kind} default/x"]


def test_a_claim_template_is_a_volume_of_a_stateful_set(read: Callable[..., Manifests]) -> None:
    manifests = read(
        """\
        apiVersion: apps/v1
        kind: StatefulSet
        metadata: {name: x}
        spec:
          selector: {matchLabels: {a: b}}
          volumeClaimTemplates: [{metadata: {name: data}}]
          template:
            metadata: {labels: {a: b}}
            spec: {containers: [{name: c, volumeMounts: [{name: data, mountPath: /d}]}]}
        """
    )
    assert manifests.problems == ()


@pytest.mark.parametrize(
    ("container", "spec", "message"),
    [
        (
            "image: example.org/app",
            "",
            (
                "containers[0]: the container app has no command; "
                "set command, or give one by troth up --command default/web/app=COMMAND: "
                "no image is pulled"
            ),
        ),
        (
            "command: [x]\nlifecycle: {stopSignal: SIGQUIT}",
            "",
            (
                "containers[0].lifecycle.stopSignal: has no effect on a local pod; "
                "test it in a cluster"
            ),
        ),
        (
            "command: [x]\nsecurityContext: {capabilities: {add: [NET_ADMIN, KILL, CAP_NET_RAW]}}",
            "",
            (
                "containers[0].securityContext.capabilities.add: adds NET_ADMIN, NET_RAW, which no "
                "local container has; test it in a cluster"
            ),
        ),
        (
            "command: [x]\nenv: [{name: A, valueFrom: {fileKeyRef: {key: a, path: b}}}]",
            "",
            (
                "containers[0].env[0].valueFrom.fileKeyRef: has no effect on a local pod; "
                "test it in a cluster"
            ),
        ),
        (
            "command: [x]\nvolumeMounts: [{name: v, mountPath: /x}]",
            "volumes: [{name: v, nfs: {}}]",
            (
                "volumes: the volume v is nfs, which a local pod can't mount; "
                "use configMap, secret, projected, emptyDir, hostPath or persistentVolumeClaim"
            ),
        ),
        (
            "command: [x]",
            "hostNetwork: true",
            (
                "hostNetwork: has no effect on a local pod; it gets a network namespace of its "
                "own, outside the mesh as in a cluster"
            ),
        ),
    ],
)
def test_what_a_local_pod_cannot_do_is_no_error_of_the_manifest(
    container: str, spec: str, message: str, read: Callable[..., Manifests]
) -> None:
    manifests = read(pod(container, spec))
    assert manifests.problems == ()
    (problem,) = runnable_problems(manifests.pods["default/web"])
    assert f"{problem.path}: {problem.found}; {problem.wanted}" == message
    fatal = "no command" in message
    assert problem.severity is (Severity.ERROR if fatal else Severity.WARNING)


def test_a_pod_with_a_command_can_be_run(read: Callable[..., Manifests]) -> None:
    assert runnable_problems(read(pod("command: [x]")).pods["default/web"]) == ()
