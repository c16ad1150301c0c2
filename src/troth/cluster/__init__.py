"""The node agent in a cluster: fed by the Kubernetes API, capturing pods that a kubelet runs.

It is a process of its own (`troth.cluster.settings.become_node`): what the command line needed is
not in its memory.
"""
