"""The protocol by which `cargo lab bench` drives a peer: requests on standard input, answers on standard output, JSON lines.

The same as of `llmkit/examples/engine`: see the table at its head.
"""

import json
import os
import sys
import time


def timed(work, repetitions=1):
    """Seconds that `repetitions` calls of `work` take."""
    start = time.perf_counter()
    for _ in range(repetitions):
        work()
    return time.perf_counter() - start


def tokens(count, first=0):
    """Tokens that no engine can know: those that ours gets."""
    return [i * 7919 % 40000 + 1000 for i in range(first, first + count)]


def serve(name, version, prepare):
    """Answers until standard input ends. `prepare(case)` returns what a run calls, which returns seconds."""
    # What libraries print must not get between the answers.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps({"name": name, "version": version}), file=out)
    slots = {}
    for line in sys.stdin:
        try:
            request = json.loads(line)
            slot = request["slot"]
            if request["do"] == "prepare":
                slots[slot] = prepare(request["case"])
                answer = {}
            elif request["do"] == "run":
                answer = {"seconds": slots[slot]()}
            else:
                raise ValueError(f"cannot {request['do']}")
        except Exception as error:  # Whatever a library raises is an answer, too.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=out)
