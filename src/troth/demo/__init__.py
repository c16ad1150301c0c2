"""The demonstration: a real mesh on this machine, led through policies and impostors.

`running` starts the mesh, `walk` goes through the steps on it, each a `StepReport`, and the
renderers show them. What a step expects is data (`STAGES`); what happened comes from the mesh.
"""

from __future__ import annotations

from troth.demo._mesh import DemoMesh, running
from troth.demo._render import render_handshake, render_pods, render_step, render_summary
from troth.demo._report import DemoReport, Policy, StepReport, TryReport
from troth.demo._scenario import HANDSHAKE, STAGES, Happened, Stage, Try
from troth.demo._walk import trace_handshake, walk

__all__ = [
    "HANDSHAKE",
    "STAGES",
    "DemoMesh",
    "DemoReport",
    "Happened",
    "Policy",
    "Stage",
    "StepReport",
    "Try",
    "TryReport",
    "render_handshake",
    "render_pods",
    "render_step",
    "render_summary",
    "running",
    "trace_handshake",
    "walk",
]
