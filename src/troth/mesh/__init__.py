"""The world as one value: namespaces, pods, services and policies, and what derives from them."""
