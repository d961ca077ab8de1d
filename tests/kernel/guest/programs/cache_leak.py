"""
python3 cache_leak.py KIB_PER_SECOND

Answers requests and keeps each answer in a cache that nothing bounds.
"""

import random
import sys
import time

PER_SECOND = 5
cache: dict[int, bytes] = {}
while True:
    answer = random.randbytes(round(random.expovariate(1) * int(sys.argv[1]) * 1024 / PER_SECOND))
    cache[len(cache)] = answer
    rendered = answer.hex()  # gone with the next request
    time.sleep(random.expovariate(PER_SECOND))
