"""One connection from a pod: where it would go, made, and what the node's proxy reports of it.

Here are the values, which those who ask need; `troth.dial.agent` has what makes them.
"""
