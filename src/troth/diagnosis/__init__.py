"""One connection of a running mesh: made, traced and judged.

`diagnose` has the mesh make the connection and trace a handshake beside it; `judge` says from
what was found what became of it, where it stopped, why, and what to do.
"""

from __future__ import annotations

from troth.diagnosis._ask import Mesh, diagnose
from troth.diagnosis._control import ControlSocket
from troth.diagnosis._findings import Findings, Judgement, Question
from troth.diagnosis._judge import judge
from troth.diagnosis._report import Diagnosis, From, Hop, To

__all__ = [
    "ControlSocket",
    "Diagnosis",
    "Findings",
    "From",
    "Hop",
    "Judgement",
    "Mesh",
    "Question",
    "To",
    "diagnose",
    "judge",
]
