"""What survives a restart: the journal of incidents, counters, what is still to be told."""
