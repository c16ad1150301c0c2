"""The demonstration: a real mesh on this machine, led through policies and impostors.

`running` starts the mesh, `walk` goes through the steps on it, each a `StepReport`, and the
renderers show them. What a step expects is data (`STAGES`); what happened comes from the mesh.
"""
