"""Clears away connection reviews that whoever made them has not deleted."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from lightkube.core.exceptions import ApiError
from lightkube.generic_resource import create_namespaced_resource

from troth._contract import REVIEW_API, REVIEW_KIND, REVIEW_LIFETIME, REVIEWS
from troth.kube.reflector import Broken, Listed
from troth.kube.resource import Resource, model_reader
from troth.kube.typed import api_errors, is_missing

if TYPE_CHECKING:
    from lightkube import AsyncClient

    from troth.kube.client import ApiServer


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str
    creation_timestamp: datetime


class _Review(msgspec.Struct, frozen=True):
    metadata: _Metadata


_GROUP, _VERSION = REVIEW_API
_KIND = create_namespaced_resource(_GROUP, _VERSION, REVIEW_KIND, REVIEWS)
_RESOURCE: Resource[_Review] = Resource(
    plural=REVIEWS,
    group=_GROUP,
    versions=(_VERSION,),
    read=model_reader(_Review),
    is_optional=True,
    # Whoever may ask decides how many there are, and how large.
    page=50,
    metadata_only=True,
)


async def sweep_reviews(client: AsyncClient, server: ApiServer, *, now: datetime) -> None:
    """Delete the reviews whose time is over by ``now``.

    Raises:
        TrothError: The API server can't be asked, or refuses.
    """
    found = await server.list(_RESOURCE)
    if isinstance(found, Broken):
        raise found.error
    if not isinstance(found, Listed):  # there is no such kind (yet)
        return
    for item in found.items:
        if item.value is None or now - item.value.metadata.creation_timestamp < REVIEW_LIFETIME:
            continue
        metadata = item.value.metadata
        with api_errors(f"delete {REVIEW_KIND} {item.key}"):
            try:
                await client.delete(_KIND, metadata.name, namespace=metadata.namespace)
            except ApiError as error:
                if not is_missing(error):
                    raise
