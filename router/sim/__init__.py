"""The simulator: the router's own decisions, dispatchers and autoscaling on a virtual clock.

Nothing that serves imports this package.
"""
