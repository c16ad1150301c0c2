"""The demonstration: a real mesh on this machine, led through policies and impostors.

`running` starts the mesh, and `walk` goes through the steps on it, each a `StepReport`. What a step
expects is data (`STAGES`); what happened comes from the mesh.
"""
