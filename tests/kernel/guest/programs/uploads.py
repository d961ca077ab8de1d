"""
python3 uploads.py DIRECTORY KIB_PER_SECOND

Keeps what it is sent in files, and removes none of them.
"""

import itertools
import random
import sys
import time
from pathlib import Path

PER_SECOND = 4
for number in itertools.count():
    size = round(random.expovariate(1) * int(sys.argv[2]) * 1024 / PER_SECOND)
    Path(sys.argv[1], f"upload-{number}").write_bytes(bytes(size))
    time.sleep(random.expovariate(PER_SECOND))
