"""What the benchmarks' rig makes and measures."""

from __future__ import annotations

import os
import subprocess

from benchmarks.rig.population import Size, _service, _status, pod_manifest
from benchmarks.rig.priority import ahead_of_others
from benchmarks.rig.process import children, cpu_seconds, memory

SIZE = Size(accounts=20, services=50, pods=500)


def test_a_process_is_measured_as_the_kernel_counts_it() -> None:
    own = memory(os.getpid())
    assert 0 < own.pss_mb <= own.rss_mb
    assert own.peak_mb > 0
    assert cpu_seconds(os.getpid()) > 0


def test_the_children_of_a_process_are_found_while_they_run() -> None:
    with subprocess.Popen(["sleep", "infinity"]) as child:
        assert child.pid in children(os.getpid())
        child.kill()
    assert child.pid not in children(os.getpid())


def test_what_is_measured_goes_ahead_for_as_long_as_it_is_measured() -> None:
    with subprocess.Popen(["sleep", "infinity"]) as child:
        family = (os.getpid(), child.pid)
        with ahead_of_others():
            ahead = {os.sched_getscheduler(pid) for pid in family}
        after = {os.sched_getscheduler(pid) for pid in family}
        expected = os.SCHED_RR if _may_go_ahead(child.pid) else os.SCHED_OTHER
        child.kill()
    assert ahead == {expected}
    assert after == {os.SCHED_OTHER}


def _may_go_ahead(pid: int) -> bool:
    try:
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        return False
    return True


def test_each_pod_of_a_population_is_in_one_service_of_its_namespace() -> None:
    services = [_service(SIZE, number) for number in range(SIZE.services)]
    for number in range(SIZE.pods):
        pod = pod_manifest(SIZE, number)["metadata"]
        (service,) = (
            each
            for each in services
            if each["metadata"]["namespace"] == pod["namespace"]
            and each["spec"]["selector"].items() <= pod["labels"].items()
        )
        assert service["metadata"]["namespace"] in SIZE.namespaces


def test_no_two_pods_of_a_population_share_a_name_or_an_address() -> None:
    pods = [pod_manifest(SIZE, number)["metadata"] for number in range(SIZE.pods)]
    addresses = [ip["ip"] for number in range(SIZE.pods) for ip in _status(number)["podIPs"]]
    assert len({(pod["namespace"], pod["name"]) for pod in pods}) == SIZE.pods
    assert len(set(addresses)) == 2 * SIZE.pods
