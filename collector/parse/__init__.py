"""Core: text in, values out. One format per module."""
