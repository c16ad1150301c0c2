"""The field names of the Kubernetes API, and what `troth up` does with each.

They tell a typo from a field that troth doesn't use, and which fields have no effect here.

Those of Kubernetes 1.37; the API drops unknown fields, so an unknown field is only a warning.
"""

from __future__ import annotations

from enum import StrEnum


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


class Use(StrEnum):
    """What `troth up` does with a field."""

    DONE = "done"
    MOOT = "moot"
    """It makes no difference on one machine."""

    TOLD = "told"
    """It is done in part, or not: a reader of ours says which, in words of its own."""

    UNDONE = "undone"
    """It has no effect; what asks for it is warned."""


class _Type:
    """The fields of one API type; ``field:Type`` where the field's own type is in `TYPES`, too."""

    def __init__(self, *, done: str = "", moot: str = "", told: str = "", undone: str = "") -> None:
        self.uses: dict[str, Use] = {}
        self.types: dict[str, str] = {}
        texts = {Use.DONE: done, Use.MOOT: moot, Use.TOLD: told, Use.UNDONE: undone}
        for use, text in texts.items():
            for field in text.split():
                name, _, kind = field.partition(":")
                self.uses[name] = use
                if kind:
                    self.types[name] = kind


_CONTROLLER = "minReadySeconds progressDeadlineSeconds revisionHistoryLimit"

TYPES = {
    "PodSpec": _Type(
        done="""
            activeDeadlineSeconds containers:Container dnsConfig:PodDNSConfig dnsPolicy
            enableServiceLinks hostAliases:HostAlias hostname initContainers:Container
            resources:ResourceRequirements restartPolicy securityContext:PodSecurityContext
            serviceAccount serviceAccountName setHostnameAsFQDN shareProcessNamespace subdomain
            terminationGracePeriodSeconds volumes:Volume
        """,
        moot="""
            affinity automountServiceAccountToken evictionResponders hostUsers imagePullSecrets
            nodeName nodeSelector os overhead preemptionPolicy priority priorityClassName
            schedulerName schedulingGroup tolerations topologySpreadConstraints
        """,
        told="hostNetwork",
        undone="""
            ephemeralContainers hostIPC hostPID hostnameOverride readinessGates resourceClaims
            runtimeClassName schedulingGates
        """,
    ),
    "Container": _Type(
        done="""
            args env:EnvVar envFrom:EnvFromSource lifecycle:Lifecycle livenessProbe:Probe name
            ports:ContainerPort readinessProbe:Probe resources:ResourceRequirements
            securityContext:SecurityContext startupProbe:Probe volumeMounts:VolumeMount workingDir
        """,
        moot="""
            image imagePullPolicy resizePolicy stdinOnce terminationMessagePath
            terminationMessagePolicy
        """,
        told="command restartPolicy",
        undone="restartPolicyRules stdin tty volumeDevices",
    ),
    "EnvVar": _Type(done="name value valueFrom:EnvVarSource"),
    "EnvVarSource": _Type(
        done="""
            configMapKeyRef:ConfigMapKeySelector fieldRef:ObjectFieldSelector
            resourceFieldRef:ResourceFieldSelector secretKeyRef:SecretKeySelector
        """,
        undone="fileKeyRef",
    ),
    "ConfigMapKeySelector": _Type(done="key name optional"),
    "SecretKeySelector": _Type(done="key name optional"),
    "ObjectFieldSelector": _Type(done="fieldPath", moot="apiVersion"),
    "ResourceFieldSelector": _Type(done="containerName divisor resource"),
    "EnvFromSource": _Type(done="configMapRef:ConfigMapEnvSource prefix secretRef:SecretEnvSource"),
    "ConfigMapEnvSource": _Type(done="name optional"),
    "SecretEnvSource": _Type(done="name optional"),
    "Lifecycle": _Type(
        done="postStart:LifecycleHandler preStop:LifecycleHandler", undone="stopSignal"
    ),
    "LifecycleHandler": _Type(
        done="exec:ExecAction httpGet:HTTPGetAction sleep:SleepAction",
        told="tcpSocket:TCPSocketAction",
    ),
    "ExecAction": _Type(done="command"),
    "HTTPGetAction": _Type(done="httpHeaders:HTTPHeader path port scheme", undone="host protocol"),
    "HTTPHeader": _Type(done="name value"),
    "SleepAction": _Type(done="seconds"),
    "TCPSocketAction": _Type(done="port", undone="host"),
    "GRPCAction": _Type(done="port service", undone="mode"),
    "Probe": _Type(
        done="""
            exec:ExecAction failureThreshold grpc:GRPCAction httpGet:HTTPGetAction
            initialDelaySeconds periodSeconds successThreshold tcpSocket:TCPSocketAction
            terminationGracePeriodSeconds timeoutSeconds
        """
    ),
    "ContainerPort": _Type(done="containerPort name protocol", moot="hostIP", undone="hostPort"),
    "ResourceRequirements": _Type(moot="requests", undone="claims limits"),
    "SecurityContext": _Type(
        done="""
            capabilities:Capabilities readOnlyRootFilesystem runAsGroup runAsNonRoot runAsUser
        """,
        undone="""
            allowPrivilegeEscalation appArmorProfile privileged procMount seLinuxOptions
            seccompProfile windowsOptions
        """,
    ),
    "Capabilities": _Type(done="drop", told="add"),
    "PodSecurityContext": _Type(
        done="fsGroup runAsGroup runAsNonRoot runAsUser supplementalGroups",
        undone="""
            appArmorProfile fsGroupChangePolicy seLinuxChangePolicy seLinuxOptions seccompProfile
            supplementalGroupsPolicy sysctls windowsOptions
        """,
    ),
    "VolumeMount": _Type(
        done="mountPath name readOnly recursiveReadOnly subPath subPathExpr",
        undone="bindMountOptions mountPropagation",
    ),
    "PodDNSConfig": _Type(done="nameservers options:PodDNSConfigOption searches"),
    "PodDNSConfigOption": _Type(done="name value"),
    "HostAlias": _Type(done="hostnames ip"),
    "Volume": _Type(
        done="""
            configMap:ConfigMapVolumeSource downwardAPI:DownwardAPIVolumeSource
            emptyDir:EmptyDirVolumeSource ephemeral:EphemeralVolumeSource
            hostPath:HostPathVolumeSource name
            persistentVolumeClaim:PersistentVolumeClaimVolumeSource
            projected:ProjectedVolumeSource secret:SecretVolumeSource
        """,
        told="""
            awsElasticBlockStore azureDisk azureFile cephfs cinder csi fc flexVolume flocker
            gcePersistentDisk gitRepo glusterfs image iscsi nfs photonPersistentDisk portworxVolume
            quobyte rbd scaleIO storageos vsphereVolume
        """,
    ),
    "ConfigMapVolumeSource": _Type(
        done="defaultMode items:KeyToPath name optional", undone="defaultUser"
    ),
    "SecretVolumeSource": _Type(
        done="defaultMode items:KeyToPath optional secretName", undone="defaultUser"
    ),
    "KeyToPath": _Type(done="key path", undone="mode user"),
    "DownwardAPIVolumeSource": _Type(
        done="defaultMode items:DownwardAPIVolumeFile", undone="defaultUser"
    ),
    "DownwardAPIVolumeFile": _Type(
        done="fieldRef:ObjectFieldSelector path resourceFieldRef:ResourceFieldSelector",
        undone="mode user",
    ),
    "EmptyDirVolumeSource": _Type(moot="medium", undone="mode sizeLimit"),
    "EphemeralVolumeSource": _Type(moot="volumeClaimTemplate"),
    "HostPathVolumeSource": _Type(done="path", undone="type"),
    "PersistentVolumeClaimVolumeSource": _Type(done="claimName readOnly"),
    "ProjectedVolumeSource": _Type(
        done="defaultMode sources:VolumeProjection", undone="defaultUser"
    ),
    "VolumeProjection": _Type(
        done="""
            configMap:ConfigMapProjection downwardAPI:DownwardAPIProjection secret:SecretProjection
        """,
        undone="clusterTrustBundle podCertificate serviceAccountToken",
    ),
    "ConfigMapProjection": _Type(done="items:KeyToPath name optional"),
    "SecretProjection": _Type(done="items:KeyToPath name optional"),
    "DownwardAPIProjection": _Type(done="items:DownwardAPIVolumeFile"),
    "DeploymentSpec": _Type(
        done="replicas selector template", moot=f"{_CONTROLLER} strategy", undone="paused"
    ),
    "StatefulSetSpec": _Type(
        done="""
            ordinals:StatefulSetOrdinals podManagementPolicy replicas selector serviceName template
            volumeClaimTemplates
        """,
        moot="minReadySeconds revisionHistoryLimit updateStrategy",
        undone="persistentVolumeClaimRetentionPolicy",
    ),
    "StatefulSetOrdinals": _Type(done="start"),
    "DaemonSetSpec": _Type(
        done="selector template", moot="minReadySeconds revisionHistoryLimit updateStrategy"
    ),
    "ReplicaSetSpec": _Type(done="replicas selector template", moot="minReadySeconds"),
    "ReplicationControllerSpec": _Type(done="replicas selector template", moot="minReadySeconds"),
    "CronJobSpec": _Type(
        done="""
            concurrencyPolicy failedJobsHistoryLimit jobTemplate:JobTemplateSpec schedule
            startingDeadlineSeconds successfulJobsHistoryLimit suspend timeZone
        """
    ),
    "JobTemplateSpec": _Type(done="spec:JobSpec", moot="metadata"),
    "JobSpec": _Type(
        done="""
            activeDeadlineSeconds backoffLimit completionMode completions parallelism suspend
            template ttlSecondsAfterFinished
        """,
        moot="managedBy manualSelector podReplacementPolicy scheduling selector",
        undone="backoffLimitPerIndex maxFailedIndexes podFailurePolicy successPolicy",
    ),
    "ServiceSpec": _Type(
        done="""
            clusterIP clusterIPs externalName ipFamilies ipFamilyPolicy ports:ServicePort
            publishNotReadyAddresses selector sessionAffinity
        """,
        moot="""
            allocateLoadBalancerNodePorts externalTrafficPolicy healthCheckNodePort
            internalTrafficPolicy loadBalancerClass sessionAffinityConfig trafficDistribution
        """,
        told="type",
        undone="externalIPs loadBalancerIP loadBalancerSourceRanges",
    ),
    "ServicePort": _Type(done="name port protocol targetPort", moot="appProtocol nodePort"),
}
"""The types of which `troth up` reads some fields, and what becomes of each field."""


def names(kind: str) -> tuple[str, ...]:
    """The fields of a type of ``TYPES``."""
    return tuple(TYPES[kind].uses)


SELECTING = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")
"""apps/v1: the controllers whose pods run until told to stop, and which need a selector."""

CONTROLLERS = (*SELECTING, "ReplicationController", "Job", "CronJob")
"""All kinds with a pod template."""

ENDPOINT_SLICE = _names("addressType apiVersion endpoints kind metadata ports")
"""discovery.k8s.io/v1 EndpointSlice."""

ENDPOINT = _names("""
    addresses conditions deprecatedTopology hints hostname nodeName targetRef zone
""")
"""discovery.k8s.io/v1 Endpoint."""

ENDPOINT_PORT = _names("appProtocol name port protocol")
"""discovery.k8s.io/v1 and core/v1 EndpointPort."""

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
"""Kinds that troth ignores, in the API groups where it reads others."""

FORMER_GROUPS = frozenset({"extensions"})
"""API groups whose kinds moved to others."""

FORMER_KINDS = {
    ("MeshPolicy", "authentication.istio.io"): (
        "write a PeerAuthentication without a selector in the root namespace (security.istio.io/v1)"
    ),
    ("Policy", "authentication.istio.io"): "write a PeerAuthentication (security.istio.io/v1)",
}
"""Removed kinds of policies, by kind and group, and their successors: silently ignoring one would
leave its workloads open."""
