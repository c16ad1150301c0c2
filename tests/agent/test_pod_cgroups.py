"""A pod's network namespace is found by the names that kubelets give cgroups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from troth.agent.pod_namespaces import network_namespaces, pod_uid
from troth.errors import EnvironmentLackError
from troth.mesh.model import Pod

if TYPE_CHECKING:
    from pathlib import Path

UID = "0a1b2c3d-1111-2222-3333-444455556666"
UNDERSCORED = UID.replace("-", "_")
STATIC = "0123456789abcdef0123456789abcdef"
CONTAINER = "f" * 64


@pytest.mark.parametrize(
    ("cgroup", "uid"),
    [
        (f"0::/kubepods/besteffort/pod{UID}/{CONTAINER}\n", UID),
        (f"0::/kubepods/pod{UID}/{CONTAINER}\n", UID),
        (
            (
                "0::/kubepods.slice/kubepods-burstable.slice/"
                f"kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{CONTAINER}.scope\n"
            ),
            UID,
        ),
        (f"0::/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-{CONTAINER}.scope\n", UID),
        (
            (
                "12:pids:/system.slice/containerd.service\n"
                f"11:memory:/kubepods/burstable/pod{UID}/{CONTAINER}\n"
            ),
            UID,
        ),
        (f"0::/kubepods/burstable/pod{STATIC}/{CONTAINER}\n", STATIC),
        (f"0::/../../pod{UID}/{CONTAINER}\n", UID),
        (
            f"0::/kubepods/pod{UID.replace('0', '9')}/{CONTAINER}/kubepods/pod{UID}/{CONTAINER}\n",
            UID,
        ),
        ("0::/system.slice/kubelet.service\n", None),
        ("0::/\n", None),
        ("0::/kubepods/besteffort\n", None),
        (f"0::/user.slice/my-pod{UID}.scope\n", None),
        (f"0::/kubepods/pod{UID}x/{CONTAINER}\n", None),
        ("", None),
    ],
    ids=[
        "v2 cgroupfs",
        "guaranteed",
        "v2 systemd",
        "guaranteed systemd",
        "v1",
        "static pod",
        "relative to a cgroup namespace",
        "a node that is a pod",
        "kubelet",
        "root",
        "class only",
        "look-alike",
        "longer",
        "nothing",
    ],
)
def test_the_uid_is_read_from_the_cgroup(cgroup: str, uid: str | None) -> None:
    assert pod_uid(cgroup) == uid


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc in which namespaces are told apart by files' inodes."""
    for name in ("node", "pod", "other"):
        (tmp_path / name).touch()
    for pid in ("self", "1"):
        _process(tmp_path, pid, "", "node")
    return tmp_path


def _process(proc: Path, pid: str, cgroup: str, namespace: str) -> None:
    (proc / pid / "ns").mkdir(parents=True)
    (proc / pid / "cgroup").write_text(cgroup)
    (proc / pid / "ns" / "net").symlink_to(proc / namespace)


def _found(proc: Path, uid: str = UID, kubelet_uid: str = "") -> dict[str, list[str]]:
    """The PIDs by which a pod's namespaces are found."""
    pod = Pod(uid=uid, namespace="shop", name="web", kubelet_uid=kubelet_uid)
    found = network_namespaces([pod], proc)
    return {uid: [path.parts[-3] for path in paths] for uid, paths in found.items()}


IN_POD = f"0::/kubepods/pod{UID}/{CONTAINER}"


def test_a_pods_process_leads_to_its_namespace(proc: Path) -> None:
    _process(proc, "10", "0::/init.scope", "node")
    _process(proc, "20", IN_POD, "pod")
    assert _found(proc) == {UID: ["20"]}


def test_the_nodes_own_namespace_is_never_a_pods(proc: Path) -> None:
    _process(proc, "20", IN_POD, "node")
    assert _found(proc) == {}


@pytest.mark.parametrize("pid", ["self", "1"])
def test_nothing_is_found_while_the_nodes_own_namespace_is_unknown(proc: Path, pid: str) -> None:
    _process(proc, "20", IN_POD, "pod")
    (proc / pid / "ns" / "net").unlink()
    with pytest.raises(EnvironmentLackError, match="which network namespace is the node's own"):
        _found(proc)


def test_all_namespaces_of_a_pods_processes_are_told_each_once(proc: Path) -> None:
    for pid, namespace in (("20", "pod"), ("21", "pod"), ("22", "other")):
        _process(proc, pid, IN_POD, namespace)
    (places,) = _found(proc).values()
    assert len(places) == 2
    assert "22" in places


def test_a_process_that_ends_meanwhile_is_passed_over(proc: Path) -> None:
    (proc / "20").mkdir()
    _process(proc, "30", IN_POD, "pod")
    assert _found(proc) == {UID: ["30"]}


def test_pods_that_were_not_asked_for_are_left_alone(proc: Path) -> None:
    _process(proc, "20", IN_POD, "pod")
    assert _found(proc, STATIC) == {}


def test_a_static_pods_mirror_is_found_by_the_uid_that_its_kubelet_knows(proc: Path) -> None:
    _process(proc, "20", f"0::/kubepods/pod{STATIC}/{CONTAINER}", "pod")
    assert _found(proc) == {}
    assert _found(proc, UID, STATIC) == {UID: ["20"]}
