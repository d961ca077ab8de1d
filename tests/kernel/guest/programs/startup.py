"""
python3 startup.py BYTES

Loads so much when it starts, then serves.
"""

import sys
import time

data = b"x" * int(sys.argv[1])
time.sleep(1e6)
