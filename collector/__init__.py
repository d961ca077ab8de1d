"""oom-collector: who was OOM-killed on this node, whose limit was hit, and why."""

__version__ = "0.1.0"
