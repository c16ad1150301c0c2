"""Clears away connection reviews that whoever made them has not deleted."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from troth._contract import REVIEW_API, REVIEW_KIND, REVIEW_LIFETIME, REVIEWS
from troth.kube import wire
from troth.kube.decoding import decode
from troth.kube.errors import NotFoundError, NotServedError
from troth.kube.resource import ObjectKind, Resource, reader

if TYPE_CHECKING:
    from datetime import datetime

    from troth.kube.client import ApiClient


_GROUP, _VERSION = REVIEW_API
_KIND = ObjectKind(
    kind=REVIEW_KIND, plural=REVIEWS, group=_GROUP, version=_VERSION, shape=wire.Object
)
_RESOURCE: Resource[wire.Object] = Resource(
    plural=REVIEWS,
    group=_GROUP,
    versions=(_VERSION,),
    read=reader(REVIEW_KIND, functools.partial(decode, kind=wire.Object)),
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
        if item.value is None:
            continue
        metadata = item.value.metadata
        made = metadata.creation_timestamp
        if made is None or now - made < REVIEW_LIFETIME:
            continue
        with contextlib.suppress(NotFoundError):
            await client.delete(_KIND, metadata.name, metadata.namespace)
