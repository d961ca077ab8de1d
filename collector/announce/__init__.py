"""What follows a journalled kill: names, standard output, remote sinks, fate."""
