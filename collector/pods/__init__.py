"""What the API server, or the kubelet's log folders, know of this node's pods."""
