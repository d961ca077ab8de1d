"""
python3 reader.py FILE

Reads pieces of a large file, all over it, some parts much more often than others. Holds nothing but the last piece.
"""

import os
import random
import sys
import time
from pathlib import Path

PIECE = 1 << 16
with Path(sys.argv[1]).open("rb") as file:
    pieces = os.fstat(file.fileno()).st_size // PIECE
    while True:
        for _ in range(5):
            piece = os.pread(file.fileno(), PIECE, int(pieces * random.random() ** 3) * PIECE)
        time.sleep(0.2)
