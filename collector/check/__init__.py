"""The command `check`: what this machine, these privileges and the API allow."""
