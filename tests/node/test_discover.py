"""A pod's network namespace is found by the names that kubelets give cgroups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from troth.node._discover import network_namespaces, pod_uid

if TYPE_CHECKING:
    from pathlib import Path

UID = "0a1b2c3d-1111-2222-3333-444455556666"
UNDERSCORED = UID.replace("-", "_")
MIRROR = "0123456789abcdef0123456789abcdef"
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
        (f"0::/kubepods/burstable/pod{MIRROR}/{CONTAINER}\n", MIRROR),
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
        "mirror pod",
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
    for name in ("node", "pod"):
        (tmp_path / name).touch()
    _process(tmp_path, "self", "", "node")
    return tmp_path


def _process(proc: Path, pid: str, cgroup: str, namespace: str) -> None:
    (proc / pid / "ns").mkdir(parents=True)
    (proc / pid / "cgroup").write_text(cgroup)
    (proc / pid / "ns" / "net").symlink_to(proc / namespace)


def test_a_pods_process_leads_to_its_namespace(proc: Path) -> None:
    _process(proc, "10", "0::/init.scope", "node")
    _process(proc, "20", f"0::/kubepods/pod{UID}/{CONTAINER}", "pod")
    assert network_namespaces([UID], proc) == {UID: proc / "20" / "ns" / "net"}


def test_a_process_still_in_the_nodes_namespace_does_not_count(proc: Path) -> None:
    _process(proc, "20", f"0::/kubepods/pod{UID}/{CONTAINER}", "node")
    assert network_namespaces([UID], proc) == {}


def test_a_process_that_ends_meanwhile_is_passed_over(proc: Path) -> None:
    (proc / "20").mkdir()
    _process(proc, "30", f"0::/kubepods/pod{UID}/{CONTAINER}", "pod")
    assert network_namespaces([UID], proc) == {UID: proc / "30" / "ns" / "net"}


def test_pods_that_were_not_asked_for_are_left_alone(proc: Path) -> None:
    _process(proc, "20", f"0::/kubepods/pod{UID}/{CONTAINER}", "pod")
    assert network_namespaces([MIRROR], proc) == {}
