"""How kubelets and container runtimes name the cgroups of pods."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class CgroupDriver(StrEnum):
    """A kubelet's ``cgroupDriver``."""

    SYSTEMD = "systemd"
    CGROUPFS = "cgroupfs"


class CgroupNames(msgspec.Struct, frozen=True, kw_only=True):
    """The names on one node.

    Attributes:
        driver: The kubelet's cgroup driver.
        runtime: The container runtime's prefix, ``cri-containerd`` or ``crio``; with the cgroupfs
            driver there is none.
    """

    driver: CgroupDriver = CgroupDriver.SYSTEMD
    runtime: str = "cri-containerd"

    def pod(self, uid: str, qos: str) -> str:
        """The group of a pod.

        Args:
            uid: ``metadata.uid``
            qos: ``status.qosClass``
        """
        tier = "" if qos == "Guaranteed" else qos.lower()
        if self.driver is CgroupDriver.CGROUPFS:
            return "/".join(part for part in ("kubepods", tier, f"pod{uid}") if part)
        # A slice's name tells its place; the dash separates the levels.
        above = f"kubepods.slice/kubepods-{tier}.slice" if tier else "kubepods.slice"
        levels = [part for part in ("kubepods", tier, f"pod{uid.replace('-', '_')}") if part]
        return f"{above}/{'-'.join(levels)}.slice"

    def container(self, uid: str, qos: str, container_id: str) -> str:
        """The group of a container, or of the sandbox, of a pod."""
        if self.driver is CgroupDriver.CGROUPFS:
            return f"{self.pod(uid, qos)}/{container_id}"
        return f"{self.pod(uid, qos)}/{self.runtime}-{container_id}.scope"
