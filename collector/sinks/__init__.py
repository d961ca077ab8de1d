"""Edges that tell: metrics, the JSON line, Events."""
