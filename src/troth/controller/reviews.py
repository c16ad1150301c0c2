"""Clears away connection reviews that whoever made them has not deleted."""

from __future__ import annotations

import contextlib
import functools
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from troth._contract import REVIEW_API, REVIEW_KIND, REVIEW_LIFETIME, REVIEWS
from troth.kube.decoding import decode
from troth.kube.errors import NotFoundError, NotServedError
from troth.kube.resource import ObjectKind, Resource, reader

if TYPE_CHECKING:
    from troth.kube.client import ApiClient


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str
    creation_timestamp: datetime


class _Review(msgspec.Struct, frozen=True):
    metadata: _Metadata


_GROUP, _VERSION = REVIEW_API
_KIND = ObjectKind(kind=REVIEW_KIND, plural=REVIEWS, group=_GROUP, version=_VERSION, shape=_Review)
_RESOURCE: Resource[_Review] = Resource(
    plural=REVIEWS,
    group=_GROUP,
    versions=(_VERSION,),
    read=reader(REVIEW_KIND, functools.partial(decode, kind=_Review)),
    # Whoever may ask decides how many there are, and how large.
    page=50,
    metadata_only=True,
)


async def sweep_reviews(client: ApiClient, *, now: datetime) -> None:
    """Delete the reviews whose time is over by ``now``.

    Raises:
        TrothError: The API server can't be asked, or refuses.
    """
    try:
        found = await client.list(_RESOURCE)
    except NotServedError:
        return
    for item in found.items:
        if item.value is None or now - item.value.metadata.creation_timestamp < REVIEW_LIFETIME:
            continue
        metadata = item.value.metadata
        with contextlib.suppress(NotFoundError):
            await client.delete(_KIND, metadata.name, metadata.namespace)
