"""
python3 prefork.py WORKERS MIB REQUEST_MIB

A server that forks its workers: each holds MIB, and a request takes REQUEST_MIB for a moment on average, rarely much
more. What dies is forked anew.
"""

import mmap
import os
import random
import sys
import time

WORKERS, MIB, REQUEST_MIB = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])


def serve() -> None:
    random.seed(os.getpid())
    state = os.urandom(MIB << 20)
    while state:
        time.sleep(random.expovariate(1))
        # A mapping of its own, which is given back.
        with mmap.mmap(-1, round(random.expovariate(1) * REQUEST_MIB * (1 << 20)) + 1) as request:
            for page in range(0, len(request), mmap.PAGESIZE):
                request[page] = 1
            time.sleep(0.3)


workers: set[int] = set()
while True:
    while len(workers) < WORKERS:
        if (pid := os.fork()) == 0:
            serve()
        workers.add(pid)
    ended, _ = os.wait()
    workers.discard(ended)
    time.sleep(1)
