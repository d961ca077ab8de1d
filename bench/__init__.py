"""Speed and memory of the collector on this machine, as ratios of one run: `make bench`."""
