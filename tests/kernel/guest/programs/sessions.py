"""
python3 sessions.py DIRECTORY PER_SECOND

Makes an empty file for each session, and removes none: inodes and names in the kernel, nothing in the process.
"""

import itertools
import random
import sys
import time
from pathlib import Path

for number in itertools.count():
    Path(sys.argv[1], f"session-{number}").touch()
    if number % 10 == 0:
        time.sleep(random.expovariate(int(sys.argv[2]) / 10))
