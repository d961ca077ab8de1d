"""Why it came to a kill, and what to do about it. Core: facts in, a diagnosis out."""
