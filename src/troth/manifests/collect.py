"""Turns documents into one set of typed objects, each accepted or refused by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.errors import Location, Problem
from troth.fields import OBJECT_META, UNNAMED, Fields, Report
from troth.manifests.api import FORMER_GROUPS, FORMER_KINDS, OTHER_KINDS
from troth.manifests.custom import CustomWorkload, custom_kind
from troth.manifests.entrances import ENTRANCES, Entrance
from troth.manifests.kinds import COLLECTIONS, KINDS, KindReader, Source, row_of
from troth.manifests.workloads import (
    ConfigMap,
    Deployment,
    EndpointSliceSpec,
    EndpointsSpec,
    PodTemplate,
    Secret,
    ServiceAccount,
    ServiceSpec,
    VolumeClaim,
    Workload,
)
from troth.mesh.model import Namespace
from troth.policy.model import KIND as POLICY_KIND
from troth.policy.model import PeerAuthentication
from troth.syntax import NAMESPACE, SERVICE_NAME, described, legible_name, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.manifests.yaml import Document


DEFAULT_NAMESPACE = "default"
"""The API's namespace for an object that names none."""


class Manifests(msgspec.Struct, frozen=True, kw_only=True):
    """All objects in manifests, by ``NAMESPACE/NAME`` (a Namespace by its name).

    Attributes:
        namespaces: Those defined, and those that other objects only name (without labels).
        pods: Bare Pods.
        deployments: Deployments.
        workloads: Other controllers by ``KIND NAMESPACE/NAME``: StatefulSet, DaemonSet,
            ReplicaSet, ReplicationController, Job, CronJob.
        custom_workloads: Objects of other APIs that make pods, by ``KIND.GROUP NAMESPACE/NAME``.
        entrances: Objects that route clients from outside the mesh to Services, by ``KIND.GROUP``
            and name.
        services: Services.
        endpoint_slices: EndpointSlices.
        endpoints: Endpoints.
        config_maps: ConfigMaps.
        secrets: Secrets.
        service_accounts: ServiceAccounts.
        claims: PersistentVolumeClaims.
        policies: PeerAuthentications.
        problems: Errors and warnings.
        ignored: Kinds that have no effect (``KIND.GROUP``), and how many objects each has.
        origins: Where each accepted object is, by ``KIND NAMESPACE/NAME``.
        refused: Objects that are present but invalid, by ``KIND NAMESPACE/NAME``.
        unread: Files and directories with objects that could not be identified.
        dated: Some object has a ``creationTimestamp``, so they come from a cluster.
    """

    namespaces: Mapping[str, Namespace] = {}
    pods: Mapping[str, PodTemplate] = {}
    deployments: Mapping[str, Deployment] = {}
    workloads: Mapping[str, Workload] = {}
    custom_workloads: Mapping[str, CustomWorkload] = {}
    entrances: Mapping[str, Entrance] = {}
    services: Mapping[str, ServiceSpec] = {}
    endpoint_slices: Mapping[str, EndpointSliceSpec] = {}
    endpoints: Mapping[str, EndpointsSpec] = {}
    config_maps: Mapping[str, ConfigMap] = {}
    secrets: Mapping[str, Secret] = {}
    service_accounts: Mapping[str, ServiceAccount] = {}
    claims: Mapping[str, VolumeClaim] = {}
    policies: Mapping[str, PeerAuthentication] = {}
    problems: tuple[Problem, ...] = ()
    ignored: tuple[tuple[str, int], ...] = ()
    origins: Mapping[str, Location] = {}
    refused: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()
    dated: bool = False

    @property
    def slices(self) -> tuple[EndpointSliceSpec, ...]:
        """All EndpointSlices, and the Endpoints that a cluster would mirror as such."""
        return (
            *self.endpoint_slices.values(),
            *(
                each
                for key, endpoints in self.endpoints.items()
                if endpoints.is_mirrored and key in self.services
                if not self.services[key].selector
                for each in endpoints.slices
            ),
        )

    @property
    def templates(self) -> tuple[PodTemplate, ...]:
        """The templates of all pods: bare Pods and all workloads' templates."""
        controllers = (*self.deployments.values(), *self.workloads.values())
        custom = (each for made in self.custom_workloads.values() for each in made.templates)
        return (*self.pods.values(), *(controller.template for controller in controllers), *custom)

    @property
    def unknown_workloads(self) -> tuple[CustomWorkload, ...]:
        """Workloads whose pods can't be derived from these manifests, and why."""
        found = []
        for each in self.custom_workloads.values():
            if each.unknown:
                found.append(each)
            elif each.of and each.of not in self.origins:
                why = f"it takes its pods from {each.of}, which isn't given"
                found.append(msgspec.structs.replace(each, unknown=why))
        return tuple(found)


def collect(
    documents: Iterable[Document],
    problems: Iterable[Problem] = (),
    *,
    namespace: str = DEFAULT_NAMESPACE,
    stored: bool = False,
) -> Manifests:
    """Sort documents into typed objects.

    Args:
        documents: In the order in which the first of two duplicates wins.
        problems: Errors of reading them, each with its location.
        namespace: The namespace of objects that name none.
        stored: They are in a cluster already, so they are read as Istio reads objects that its API
            would refuse today (see `troth.policy.parse.parse_peer_authentication`).
    """
    collector = _Collector(problems, namespace=namespace, stored=stored)
    for document in documents:
        for each in flattened(document):
            collector.add(each)
    return collector.finish()


def flattened(document: Document) -> Iterator[Document]:
    """The objects of a List (v1 ``List``, or a typed one such as ``PodList``), or the object."""
    value = document.value
    kind = value.get("kind") if isinstance(value, dict) else None
    if not (isinstance(value, dict) and isinstance(kind, str) and kind.endswith("List")):
        yield document
        return
    items = value.get("items")
    if not isinstance(items, list):
        yield document  # a custom kind that only sounds like a list, or a bad one
        return
    implied = {} if kind == "List" else {"apiVersion": value.get("apiVersion"), "kind": kind[:-4]}
    for index, item in enumerate(items):
        # API servers leave apiVersion and kind out of the items of typed lists.
        whole = implied | item if isinstance(item, dict) else item
        yield from flattened(document.item(f"items[{index}]", whole))


def with_implied_namespaces(manifests: Manifests) -> Manifests:
    """Add the namespaces that objects name and no manifest defines."""
    written = {
        key: it
        for key, it in manifests.namespaces.items()
        if f"Namespace {key}" in manifests.origins
    }
    named = dict.fromkeys(
        identity.namespace
        for identity in map(Identity.parse, manifests.origins)
        if identity.namespace
    )
    implied = {name: Namespace(name=name) for name in named if name not in written}
    return msgspec.structs.replace(manifests, namespaces=written | implied)


class Identity(NamedTuple):
    """An object's unique name."""

    kind: str
    namespace: str
    name: str

    @classmethod
    def parse(cls, subject: str) -> Identity:
        """The inverse of ``str``."""
        kind, _, place = subject.partition(" ")
        namespace, _, name = place.rpartition("/")
        return cls(kind, namespace, name)

    @property
    def key(self) -> str:
        """Its key in its collection of ``Manifests``."""
        row = row_of(self.kind)
        of_several = row.collection in {"workloads", "custom_workloads", "entrances"}
        if of_several:
            return f"{self}"
        return f"{self.namespace}/{self.name}" if row.namespaced else self.name

    def __str__(self) -> str:
        place = f"{self.namespace}/{self.name}" if row_of(self.kind).namespaced else self.name
        return f"{self.kind} {place}"


class _Collector:
    def __init__(self, problems: Iterable[Problem], *, namespace: str, stored: bool) -> None:
        self._namespace = namespace
        self._stored = stored
        self._problems = list(problems)
        self._unread = {problem.location.file for problem in self._problems if problem.location}
        self._objects: dict[str, dict[str, object]] = {each: {} for each in COLLECTIONS}
        self._claims: dict[str, Location] = {}
        self._origins: dict[str, Location] = {}
        self._refused: set[str] = set()
        self._ignored: Counter[str] = Counter()
        self._dated = False

    def finish(self) -> Manifests:
        known: dict[str, object] = {
            **self._objects,
            "problems": tuple(self._problems),
            "ignored": tuple(sorted(self._ignored.items())),
            "origins": self._origins,
            "refused": frozenset(self._refused),
            "unread": frozenset(self._unread),
            "dated": self._dated,
        }
        return with_implied_namespaces(Manifests(**known))  # type: ignore[arg-type]  # rows of KINDS

    def add(self, document: Document) -> None:
        # Set by the API server; tools write null until then.
        self._dated = self._dated or bool(_metadata(document.value).get("creationTimestamp"))
        kind = self._kind(document)
        if kind is None:
            return
        row = row_of(kind)
        if row.namespaced and self._namespace != DEFAULT_NAMESPACE:
            document = _in_namespace(document, self._namespace)
        identity = _identity(document.value, kind, row)
        report = Report(str(identity) if identity else kind, document.place)
        if identity is not None and self._is_second(identity, report, document.location):
            self._problems += report.problems
            return
        source = Source(
            document,
            kind=kind,
            namespace=identity.namespace if identity else DEFAULT_NAMESPACE,
            name=identity.name if identity else "",
            report=report,
            stored=self._stored,
        )
        if not row.checks_metadata:
            _check_header(source, row)
        if not self._stored:  # else the API server has validated them
            _check_labels(source.top)
            if not row.checks_metadata:
                source.top.fields("metadata").only(OBJECT_META)
        parsed = row.parse(source)
        self._problems += report.problems
        if identity is None:
            self._unread.add(document.location.file)
        elif report.errors:
            self._refused.add(str(identity))
        else:
            self._objects[row.collection][identity.key] = parsed
            self._origins[str(identity)] = document.location

    def _kind(self, document: Document) -> str | None:
        """The kind, if troth reads it."""
        value = document.value
        report = Report(_best_name(value), document.place)
        if not isinstance(value, dict):
            report.error("", f"is {described(value)}", "write a Kubernetes object")
        else:
            fields = Fields(value, "", report)
            api_version = fields.needed("apiVersion", "write one, such as v1")
            kind = fields.needed("kind", "write one, such as Deployment")
            if not report.errors:
                group = api_version.rpartition("/")[0]
                if kind in KINDS and KINDS[kind].group == group:
                    return kind
                if f"{kind}.{group}" in ENTRANCES:
                    self._ignored[f"{kind}.{group}"] += 1  # it has no effect all the same
                    return f"{kind}.{group}"
                if custom := custom_kind(value, kind, group):
                    return custom
                if kind.endswith("List"):
                    fields.items("items")
                if not _misspelt(fields, kind, group) and not report.errors:
                    self._ignored[f"{kind}.{group}" if group else kind] += 1
                    if not self._stored:
                        _check_labels(fields)
                    self._problems += report.problems
                    return None
        if report.errors:
            self._problems += report.problems
            self._unread.add(document.location.file)
        return None

    def _is_second(self, identity: Identity, report: Report, here: Location) -> bool:
        first = self._claims.setdefault(str(identity), here)
        if first is here:
            return False
        report.error("", f"is defined twice, first at {first}", "keep one of them")
        return True


def _metadata(value: object) -> dict[str, object]:
    """An object's metadata; empty if it has none."""
    metadata = value.get("metadata") if isinstance(value, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _in_namespace(document: Document, namespace: str) -> Document:
    """The object in ``namespace``, unless it names one itself."""
    value, metadata = document.value, _metadata(document.value)
    if not isinstance(value, dict) or not metadata or metadata.get("namespace"):
        return document
    placed = value | {"metadata": metadata | {"namespace": namespace}}
    return msgspec.structs.replace(document, value=placed)


def _best_name(value: object) -> str:
    """A name for an object that may have any kind, or none."""
    metadata = _metadata(value)
    kind = legible_name(value.get("kind") if isinstance(value, dict) else None)
    name = legible_name(metadata.get("name"))
    namespace = legible_name(metadata.get("namespace") or DEFAULT_NAMESPACE)
    if "?" in (kind, name):
        return "object"
    namespaced = kind not in KINDS or KINDS[kind].namespaced
    return f"{kind} {namespace}/{name}" if namespaced else f"{kind} {name}"


def _identity(value: object, kind: str, row: KindReader) -> Identity | None:
    metadata = _metadata(value)
    name = metadata.get("name")
    namespace = (metadata.get("namespace") or DEFAULT_NAMESPACE) if row.namespaced else ""
    if row.name.flaw(name) or (row.namespaced and NAMESPACE.flaw(namespace)):
        return None
    return Identity(kind, str(namespace), str(name))


def _check_header(source: Source, row: KindReader) -> None:
    api_version = source.top.string("apiVersion")
    if row.versions and api_version not in row.api_versions:
        source.top.error(
            "apiVersion", f"is {described(api_version)}", f"write {' or '.join(row.api_versions)}"
        )
    metadata = source.top.fields("metadata")
    rule = {"Namespace": NAMESPACE, "Service": SERVICE_NAME}.get(source.kind, row.name)
    if source.stored and rule is SERVICE_NAME:
        rule = NAMESPACE  # an API server may be told to take any DNS label
    wanted = UNNAMED if "generateName" in metadata else "give the object a name"
    metadata.needed("name", wanted, rule=rule)
    if row.namespaced:
        metadata.string("namespace", rule=NAMESPACE)


def _check_labels(top: Fields) -> None:
    metadata = top.fields("metadata")
    metadata.labels("labels")
    metadata.annotations("annotations")


def _misspelt(fields: Fields, kind: str, group: str) -> bool:
    """Report a kind that the group doesn't have; return whether that was so.

    Unknown groups may have any kinds, except PeerAuthentication: no other API has it, and silently
    ignoring one would leave its workloads open.
    """
    if wanted := FORMER_KINDS.get((kind, group)):
        fields.error("kind", f"is {kind}, which neither Istio nor troth acts on any more", wanted)
        return True
    known_group = group in OTHER_KINDS or group in FORMER_GROUPS
    if kind in KINDS and (known_group or kind == POLICY_KIND):
        wanted = f"write {' or '.join(KINDS[kind].api_versions)}"
        fields.error("apiVersion", f"has no kind {kind}", wanted)
        return True
    if group not in OTHER_KINDS or kind in OTHER_KINDS[group]:
        return False
    there = [name for name, row in KINDS.items() if row.group == group]
    wanted = nearest(kind, there) or "correct kind or apiVersion"
    fields.error("kind", f"is {described(kind)}, which its apiVersion doesn't have", wanted)
    return True
