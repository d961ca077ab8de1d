"""The node's memory cgroups (v2): which there are, what they counted, what they use."""
