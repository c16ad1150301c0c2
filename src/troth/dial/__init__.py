"""One connection from a pod: where it would go, made, and what the node's proxy reports of it.

The values that those who ask need are in `troth.dial.report`; the other modules make them.
"""
