"""
python3 report.py STEADY_MIB REPORT_MIB EVERY_SECONDS

Serves from STEADY_MIB, and once in a while builds a report of REPORT_MIB, all at once.
"""

import os
import random
import sys
import time

STEADY_MIB, REPORT_MIB, EVERY_SECONDS = map(int, sys.argv[1:])
state = os.urandom(STEADY_MIB << 20)
due = time.monotonic() + EVERY_SECONDS
while True:
    request = os.urandom(random.randrange(1 << 19))
    time.sleep(0.5)
    if time.monotonic() > due:
        report = [os.urandom(1 << 20) for _ in range(REPORT_MIB)]
        time.sleep(2)
        del report
        due += EVERY_SECONDS
