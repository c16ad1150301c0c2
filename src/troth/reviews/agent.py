"""The side of ConnectionReviews that answers: a node's agent."""

from __future__ import annotations

from troth.reviews._answers import Knowledge
from troth.reviews._responder import Responder

__all__ = ["Knowledge", "Responder"]
