"""ConnectionReviews: questions to the node agents of a cluster about connections of a namespace.

Here are the objects and what follows from them, all of it pure. `troth.reviews.agent` answers
them, `troth.reviews.asker` asks.
"""

from __future__ import annotations

from troth.reviews._following import Follower, Fresh
from troth.reviews._gather import Gathered, concerned_nodes, gather
from troth.reviews._objects import (
    ConnectAnswer,
    EventsAnswer,
    Question,
    ReviewSpec,
    RouteAnswer,
    Seen,
    TotalsAnswer,
)

__all__ = [
    "ConnectAnswer",
    "EventsAnswer",
    "Follower",
    "Fresh",
    "Gathered",
    "Question",
    "ReviewSpec",
    "RouteAnswer",
    "Seen",
    "TotalsAnswer",
    "concerned_nodes",
    "gather",
]
