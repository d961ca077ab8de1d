"""
Histories of memory with known answers, apart from those that the rules were written by: what the diagnosis is judged by.

SHAPES were read before its last rules were added; FRESH were made after that (docs/diagnosis.md).

Seeds name the cases: the same seed makes the same history on each machine and Python.
"""

from tests.diagnosis.held_out import calm, fresh, kills, leaks, lives
from tests.diagnosis.held_out.shape import Shape

SHAPES: tuple[Shape, ...] = (*leaks.SHAPES, *lives.SHAPES, *kills.SHAPES, *calm.SHAPES)

FRESH: tuple[Shape, ...] = tuple(fresh.SHAPES)
