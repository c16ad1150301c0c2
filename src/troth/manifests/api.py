"""The field names that the Kubernetes API has, to tell a typing mistake from a field we don't use.

As of Kubernetes 1.34; the API drops what it doesn't know, so an unknown field is only a warning.
"""

from __future__ import annotations


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CONTAINER = _names("""
    args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports
    readinessProbe resizePolicy resources restartPolicy restartPolicyRules securityContext
    startupProbe stdin stdinOnce terminationMessagePath terminationMessagePolicy tty
    volumeDevices volumeMounts workingDir
""")
"""core/v1 Container."""

LIFECYCLE = _names("postStart preStop stopSignal")
"""core/v1 Lifecycle."""

POD_SPEC = _names("""
    activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy
    enableServiceLinks ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers
    hostname hostnameOverride imagePullSecrets initContainers nodeName nodeSelector os overhead
    preemptionPolicy priority priorityClassName readinessGates resourceClaims resources
    restartPolicy runtimeClassName schedulerName schedulingGates securityContext serviceAccount
    serviceAccountName setHostnameAsFQDN shareProcessNamespace subdomain
    terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes
""")
"""core/v1 PodSpec."""

POD_DNS_CONFIG = _names("nameservers options searches")
"""core/v1 PodDNSConfig."""

SERVICE_SPEC = _names("""
    allocateLoadBalancerNodePorts clusterIP clusterIPs externalIPs externalName
    externalTrafficPolicy healthCheckNodePort internalTrafficPolicy ipFamilies ipFamilyPolicy
    loadBalancerClass loadBalancerIP loadBalancerSourceRanges ports publishNotReadyAddresses
    selector sessionAffinity sessionAffinityConfig trafficDistribution type
""")
"""core/v1 ServiceSpec."""

ENDPOINT_SLICE = _names("addressType apiVersion endpoints kind metadata ports")
"""discovery.k8s.io/v1 EndpointSlice."""

ENDPOINT = _names("""
    addresses conditions deprecatedTopology hints hostname nodeName targetRef zone
""")
"""discovery.k8s.io/v1 Endpoint."""

ENDPOINT_PORT = _names("appProtocol name port protocol")
"""discovery.k8s.io/v1 and core/v1 EndpointPort."""

WORKLOAD_SPECS = {
    "Deployment": _names("""
        minReadySeconds paused progressDeadlineSeconds replicas revisionHistoryLimit selector
        strategy template
    """),
    "StatefulSet": _names("""
        minReadySeconds ordinals persistentVolumeClaimRetentionPolicy podManagementPolicy replicas
        revisionHistoryLimit selector serviceName template updateStrategy volumeClaimTemplates
    """),
    "DaemonSet": _names("minReadySeconds revisionHistoryLimit selector template updateStrategy"),
    "ReplicaSet": _names("minReadySeconds replicas selector template"),
}
"""apps/v1: the controllers whose pods run until told to stop, and which need a selector."""

REPLICATION_CONTROLLER_SPEC = _names("minReadySeconds replicas selector template")
"""core/v1 ReplicationControllerSpec."""

JOB_SPEC = _names("""
    activeDeadlineSeconds backoffLimit backoffLimitPerIndex completionMode completions managedBy
    manualSelector maxFailedIndexes parallelism podFailurePolicy podReplacementPolicy selector
    successPolicy suspend template ttlSecondsAfterFinished
""")
"""batch/v1 JobSpec."""

CRON_JOB_SPEC = _names("""
    concurrencyPolicy failedJobsHistoryLimit jobTemplate schedule startingDeadlineSeconds
    successfulJobsHistoryLimit suspend timeZone
""")
"""batch/v1 CronJobSpec."""

OTHER_KINDS = {
    "": _names("""
        Binding ComponentStatus Event LimitRange List Node PersistentVolume
        PodTemplate ResourceQuota
    """),
    "apps": _names("ControllerRevision"),
    "batch": _names(""),
    "discovery.k8s.io": _names(""),
    "security.istio.io": _names("AuthorizationPolicy RequestAuthentication"),
}
"""Kinds that troth ignores, of the API groups of which it reads some."""

FORMER_GROUPS = frozenset({"extensions"})
"""API groups whose kinds moved elsewhere."""

FORMER_KINDS = {
    ("MeshPolicy", "authentication.istio.io"): (
        "write a PeerAuthentication without a selector in the root namespace (security.istio.io/v1)"
    ),
    ("Policy", "authentication.istio.io"): "write a PeerAuthentication (security.istio.io/v1)",
}
"""Policies of old by kind and group, and what says the same today: one left out without a word
would leave its workloads open."""
