"""Edges that read: the kernel log, cgroups, processes and pods."""
