from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from troth.errors import InputError
from troth.local.config import (
    EnvironmentSources,
    command_line,
    environment,
    from_host,
    mount_volumes,
    quantity,
)
from troth.manifests.workloads import (
    ConfigMap,
    Container,
    EnvFrom,
    EnvVar,
    KeyRef,
    PodTemplate,
    Projection,
    ResourceRef,
    Secret,
    Volume,
    VolumeKind,
    VolumeMount,
)
from troth.mesh.model import Pod, Protocol, Service, ServicePort

if TYPE_CHECKING:
    from pathlib import Path

    from troth.local.launch import Bind

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


KEPT = EnvironmentSources(
    config_maps={
        "finance/settings": ConfigMap(
            namespace="finance",
            name="settings",
            data={"a.conf": "a", "b.conf": "b"},
            binary_data={"raw": b"\xff"},
        )
    },
    secrets={"finance/login": Secret(namespace="finance", name="login", data={"key": b"k"})},
)
CONFIG_MAP, SECRET = VolumeKind.CONFIG_MAP, VolumeKind.SECRET


def of_files(kind: VolumeKind, source: str, **fields: Any) -> Volume:
    return Volume(name="v", kind=kind, files=(Projection(kind=kind, source=source, **fields),))


SETTINGS = of_files(CONFIG_MAP, "settings")


def mounted(
    directory: Path,
    volume: Volume,
    world: EnvironmentSources = KEPT,
    path: str = "/data",
    **mount: Any,
) -> list[Bind]:
    mounts = (VolumeMount(name="v", mount_path=path, **mount),)
    container = Container(name="app", volume_mounts=mounts)
    template = PodTemplate(namespace="finance", name="web", volumes=(volume,))
    return mount_volumes(container, template, world, directory, pod=POD, env={"DAY": "monday"})


def content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_config_map_is_a_read_only_directory_of_its_keys(tmp_path: Path) -> None:
    (bind,) = mounted(tmp_path, SETTINGS)
    assert bind == {
        "source": str(tmp_path / "v"),
        "inside": "",
        "target": "/data",
        "read_only": True,
        "own": True,
    }
    assert content(tmp_path / "v") == {"a.conf": b"a", "b.conf": b"b", "raw": b"\xff"}


def test_a_secrets_files_may_be_read_by_all_users_of_a_container(tmp_path: Path) -> None:
    mounted(tmp_path, of_files(SECRET, "login"))
    assert content(tmp_path / "v") == {"key": b"k"}
    assert stat.S_IMODE((tmp_path / "v/key").stat().st_mode) == 0o644


def test_items_choose_and_rename_keys(tmp_path: Path) -> None:
    volume = of_files(CONFIG_MAP, "settings", items={"a.conf": "deep/er/x", "raw": "deep/y"})
    mounted(tmp_path, volume)
    assert content(tmp_path / "v") == {"deep/er/x": b"a", "deep/y": b"\xff"}


def test_a_change_shows_in_the_same_directory(tmp_path: Path) -> None:
    mounted(tmp_path, SETTINGS)
    before = (tmp_path / "v").stat().st_ino
    changed = ConfigMap(namespace="finance", name="settings", data={"b.conf": "new"})
    mounted(tmp_path, SETTINGS, EnvironmentSources(config_maps={"finance/settings": changed}))
    assert content(tmp_path / "v") == {"b.conf": b"new"}
    assert (tmp_path / "v").stat().st_ino == before


def test_one_key_can_be_mounted_as_a_file(tmp_path: Path) -> None:
    (bind,) = mounted(tmp_path, SETTINGS, path="/etc/a.conf", sub_path="a.conf")
    assert (bind["source"], bind["inside"]) == (str(tmp_path / "v"), "a.conf")
    assert bind["target"] == "/etc/a.conf"


def test_an_empty_dir_keeps_what_is_in_it_and_is_writable(tmp_path: Path) -> None:
    volume = Volume(name="v", kind=VolumeKind.EMPTY_DIR)
    (bind,) = mounted(tmp_path, volume)
    (tmp_path / "v/kept").write_text("x")
    mounted(tmp_path, volume, sub_path="sub")
    assert not bind["read_only"]
    assert content(tmp_path / "v") == {"kept": b"x"}
    assert (tmp_path / "v/sub").is_dir()


@pytest.mark.parametrize("read_only", [True, False])
def test_a_host_path_is_mounted_as_it_is(tmp_path: Path, *, read_only: bool) -> None:
    volume = Volume(name="v", kind=VolumeKind.HOST_PATH, source=str(tmp_path))
    (bind,) = mounted(tmp_path / "state", volume, read_only=read_only)
    assert bind == {
        "source": str(tmp_path),
        "inside": "",
        "target": "/data",
        "read_only": read_only,
        "own": False,
    }
    assert not (tmp_path / "state").exists()


def test_a_kind_that_a_local_pod_cannot_have_is_left_out(tmp_path: Path) -> None:
    volume = Volume(name="v", kind=VolumeKind.OTHER, source="persistentVolumeClaim")
    assert mounted(tmp_path, volume) == []


@pytest.mark.parametrize("kind", [VolumeKind.CONFIG_MAP, VolumeKind.SECRET])
def test_an_optional_volume_that_is_missing_is_empty(tmp_path: Path, kind: VolumeKind) -> None:
    mounted(tmp_path, Volume(name="v", kind=kind, source="none", optional=True))
    assert content(tmp_path / "v") == {}


def test_an_empty_dir_is_everybodys_until_an_app_makes_it_its_own(tmp_path: Path) -> None:
    volume = Volume(name="v", kind=VolumeKind.EMPTY_DIR)
    for path, sub_path in ((tmp_path / "v", ""), (tmp_path / "v/a/b", "a/b")):
        mounted(tmp_path, volume, sub_path=sub_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o777
        path.chmod(0o700)
        mounted(tmp_path, volume, sub_path=sub_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("target", ["/etc", "..", "../../..", "/proc/self/cwd", "inside", "gone"])
def test_a_link_in_a_volume_is_not_followed(tmp_path: Path, target: str) -> None:
    volume = Volume(name="v", kind=VolumeKind.EMPTY_DIR)
    mounted(tmp_path, volume, sub_path="inside")
    (tmp_path / "v/link").symlink_to(target)
    for sub_path in ("link", "link/x", "link/x/y"):
        with pytest.raises(InputError, match=f"subPath '{sub_path}' goes by a symbolic link of"):
            mounted(tmp_path, volume, sub_path=sub_path)
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == ["inside", "link"]
    assert list((tmp_path / "v/inside").iterdir()) == []


@pytest.mark.parametrize(
    ("volume", "mount", "found"),
    [
        pytest.param(
            of_files(CONFIG_MAP, "none"),
            {},
            "there is no ConfigMap 'none'",
            id="no ConfigMap",
        ),
        pytest.param(
            of_files(SECRET, "settings"),
            {},
            "there is no Secret 'settings'",
            id="a ConfigMap is no Secret",
        ),
        pytest.param(
            of_files(SECRET, "login", items={"no": "x"}),
            {},
            "Secret 'login' has no key 'no'",
            id="no such key",
        ),
        pytest.param(SETTINGS, {"sub_path": "no"}, "volume 'v' has no 'no'", id="no such file"),
        pytest.param(
            SETTINGS,
            {"path": "//"},
            "mountPath '//' would replace the whole file system",
            id="root",
        ),
        pytest.param(
            Volume(name="v", kind=VolumeKind.HOST_PATH, source="/no/such"),
            {},
            "volume 'v' has no '/no/such'",
            id="no such host path",
        ),
    ],
)
def test_what_a_volume_refers_to_must_be_there(
    tmp_path: Path, volume: Volume, mount: dict[str, Any], found: str
) -> None:
    with pytest.raises(InputError) as refused:
        mounted(tmp_path, volume, **mount)
    assert str(refused.value) == (
        f"Pod finance/web: spec.containers[app].volumeMounts[0]: {found}; "
        "create it, correct the reference, or mark the volume optional"
    )


LIMITED = Container(
    name="app", limits={"cpu": "1500m", "memory": "128Mi"}, requests={"cpu": "250m"}
)


@pytest.mark.parametrize(
    ("ref", "value"),
    [
        (ResourceRef(resource="limits.cpu"), "2"),
        (ResourceRef(resource="limits.cpu", divisor="1m"), "1500"),
        (ResourceRef(resource="limits.memory", divisor="1Mi"), "128"),
        (ResourceRef(resource="limits.memory", divisor="0"), str(128 * 2**20)),
        (ResourceRef(resource="requests.cpu", divisor="1m"), "250"),
        (ResourceRef(resource="requests.memory", divisor="1Mi"), "128"),
        (ResourceRef(resource="limits.cpu", container="app", divisor="1m"), "1500"),
    ],
)
def test_a_variable_may_be_a_limit_or_a_request(ref: ResourceRef, value: str) -> None:
    container = msgspec.structs.replace(LIMITED, env=(EnvVar(name="A", resource=ref),))
    template = PodTemplate(namespace="finance", name="web", containers=(container,))
    assert environment(container, template, POD, EnvironmentSources(), {})["A"] == value


def test_what_has_no_limit_may_take_the_whole_machine() -> None:
    variable = EnvVar(name="A", resource=ResourceRef(resource="limits.cpu"))
    container = Container(name="app", env=(variable,))
    template = PodTemplate(namespace="finance", name="web", containers=(container,))
    given = environment(container, template, POD, EnvironmentSources(), {})
    assert given["A"] == str(os.cpu_count())


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("1.5k", 1500), ("1e3", 1000), ("2Gi", 2**31), ("-3", -3), ("5E", 5 * 10**18)],
)
def test_a_quantity_is_a_number(text: str, number: int) -> None:
    assert quantity(text) == number


def test_a_projected_volume_holds_what_all_its_sources_say(tmp_path: Path) -> None:
    volume = Volume(
        name="v",
        kind=VolumeKind.PROJECTED,
        files=(
            Projection(kind=CONFIG_MAP, source="settings", items={"a.conf": "a"}),
            Projection(kind=SECRET, source="login"),
            Projection(kind=SECRET, source="none", optional=True),
            Projection(
                kind=VolumeKind.DOWNWARD,
                fields={"name": "metadata.name", "labels": "metadata.labels"},
                resources={"memory": ResourceRef(resource="requests.memory")},
            ),
        ),
    )
    mounted(tmp_path, volume)
    assert content(tmp_path / "v") == {
        "a": b"a",
        "key": b"k",
        "name": POD.name.encode(),
        "labels": b"\n".join(b'%s="%s"' % (k.encode(), v.encode()) for k, v in POD.labels.items()),
        "memory": b"0",
    }


def test_files_have_the_mode_that_the_volume_says(tmp_path: Path) -> None:
    volume = msgspec.structs.replace(of_files(SECRET, "login"), mode=0o400)
    mounted(tmp_path, volume)
    assert stat.S_IMODE((tmp_path / "v/key").stat().st_mode) == 0o400


def test_a_sub_path_may_have_variables_and_stays_in_the_volume(tmp_path: Path) -> None:
    volume = Volume(name="v", kind=VolumeKind.EMPTY_DIR)
    (bind,) = mounted(tmp_path, volume, sub_path_expr="logs/$(DAY)")
    assert bind["inside"] == "logs/monday"
    with pytest.raises(InputError, match="outside of the volume"):
        mounted(tmp_path, volume, sub_path_expr="$(DAY)/../..")


def test_a_claim_is_a_folder_that_is_not_the_pods(tmp_path: Path) -> None:
    world = EnvironmentSources(claims={"finance/data"}, claims_directory=tmp_path / "claims")
    volume = Volume(name="v", kind=VolumeKind.CLAIM, source="data")
    (bind,) = mounted(tmp_path / "pod", volume, world)
    assert bind["source"] == str(tmp_path / "claims/finance/data")
    with pytest.raises(InputError, match="there is no PersistentVolumeClaim 'other'"):
        mounted(tmp_path, msgspec.structs.replace(volume, source="other"), world)
