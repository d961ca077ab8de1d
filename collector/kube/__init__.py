"""The Kubernetes API, as far as the agent needs it: plain requests and one watch, on aiohttp (docs/decisions/0007)."""
