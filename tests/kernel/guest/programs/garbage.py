"""
python3 garbage.py MIB

Makes cycles of about MIB between two collections, as a program that collects by hand between two jobs does.
"""

import gc
import random
import sys
import time

gc.disable()
made = 0.0
while True:
    size = random.randrange(1 << 19)
    job: list[object] = [bytes([1]) * size]
    job.append(job)
    made += size / (1 << 20)
    if made > float(sys.argv[1]) * random.uniform(0.8, 1.2):
        gc.collect()
        made = 0.0
    time.sleep(0.3)
