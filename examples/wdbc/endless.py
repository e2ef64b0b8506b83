"""A program that goes on until it is ended."""

import time

second = 0
while True:
    print("still running, second", second, flush=True)
    time.sleep(1)
    second += 1
