"""The side of ConnectionReviews that asks: somebody's command."""

from __future__ import annotations

from troth.reviews._asker import Asker, Replies
from troth.reviews._mesh import ReviewedMesh
from troth.reviews._places import Places, read_places

__all__ = ["Asker", "Places", "Replies", "ReviewedMesh", "read_places"]
