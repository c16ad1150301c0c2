"""As whom a container runs, and what it may write (``securityContext`` of pods and containers)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from troth.manifests.reader import Fields

_LAST_ID = 2**31 - 1


class Security(msgspec.Struct, frozen=True, kw_only=True):
    """What of a ``PodSecurityContext`` or ``SecurityContext`` a local runner acts on.

    Attributes:
        user: ``runAsUser``.
        group: ``runAsGroup``.
        groups: ``supplementalGroups``, of a pod only.
        fs_group: ``fsGroup``, of a pod only: the group of its volumes.
        read_only_root: ``readOnlyRootFilesystem``, of a container only.
    """

    user: int | None = None
    group: int | None = None
    groups: tuple[int, ...] = ()
    fs_group: int | None = None
    read_only_root: bool = False

    def over(self, pod: Security) -> Security:
        """This one of a container, with what it leaves to its pod's."""
        return Security(
            user=pod.user if self.user is None else self.user,
            group=pod.group if self.group is None else self.group,
            groups=pod.groups,
            fs_group=pod.fs_group,
            read_only_root=self.read_only_root,
        )

    @property
    def names_users(self) -> bool:
        """Whether it needs more users than the one who has started the mesh."""
        ids = (self.user, self.group, self.fs_group, *self.groups)
        return any(number for number in ids if number is not None)


def read_security(holder: Fields) -> Security:
    """The ``securityContext`` of a pod's spec or of a container."""
    fields = holder.fields("securityContext")
    groups = _group_list(fields)
    user = _id(fields, "runAsUser")
    if user == 0 and fields.boolean("runAsNonRoot"):
        found = "is 0 beside runAsNonRoot, so no kubelet starts it"
        fields.warn("runAsUser", found, "name another user, or drop one")
    return Security(
        user=user,
        group=_id(fields, "runAsGroup"),
        groups=groups,
        fs_group=_id(fields, "fsGroup"),
        read_only_root=fields.boolean("readOnlyRootFilesystem"),
    )


def _id(fields: Fields, name: str) -> int | None:
    return fields.integer(name, 0, high=_LAST_ID) if name in fields else None


def _group_list(fields: Fields) -> tuple[int, ...]:
    groups = fields.items("supplementalGroups")
    if wrong := [each for each in groups if not isinstance(each, int) or not 0 <= each <= _LAST_ID]:
        fields.error("supplementalGroups", f"has {wrong[0]!r}", f"write numbers, 0 to {_LAST_ID}")
        return ()
    return tuple(each for each in groups if isinstance(each, int))
