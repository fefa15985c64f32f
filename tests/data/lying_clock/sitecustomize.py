"""Clocks that lie. Python reads this file when it starts, where this folder is on PYTHONPATH.

All clocks of `time` go on, but at a pace that changes with every look at them, from a thousandth to
a thousandfold. Whoever waits for messages is told the truth: with a lie it would give up.
"""

import random
import sys
import time

CLOCKS = ("monotonic", "perf_counter", "process_time", "thread_time", "time")
WAITING = "anyio asyncio concurrent filelock ipykernel jupyter_client multiprocessing nbclient "
WAITING += "queue selectors socket sqlalchemy subprocess threading tornado zmq"
DAYS = 24 * 60 * 60
chance = random.Random(0)


def lying(clock, second):
    """A clock that says something else than the given one, which counts `second` in a second."""
    seen, said = clock(), clock() + chance.randrange(1000) * DAYS * second

    def tell():
        nonlocal seen, said
        now = clock()
        if sys._getframe(1).f_globals.get("__name__", "").partition(".")[0] in WAITING.split():
            return now
        seen, said = now, said + type(now)((now - seen) * 10 ** chance.uniform(-3, 3))
        return said

    return tell


for name in CLOCKS:
    setattr(time, name, lying(getattr(time, name), 1))
    setattr(time, f"{name}_ns", lying(getattr(time, f"{name}_ns"), 10**9))
