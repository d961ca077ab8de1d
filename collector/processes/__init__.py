"""Who had which pid, kept before death: the processes of the containers."""

NOT_STARTED = "not started"
