"""The compiled core lets other threads run while it works on bytes and doubles."""

from __future__ import annotations

import sys
import threading
import time
import zlib
from array import array

import pytest

from celers_fast import IMPL

pytestmark = pytest.mark.skipif(
    IMPL != "c" or not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="needs the compiled core and a GIL"
)


def ticks_during(call):
    """Count the steps of another thread during a call, when threads take turns only where the GIL is released."""
    steps = 0
    ready, over = threading.Event(), threading.Event()

    def step():
        nonlocal steps
        ready.set()
        while not over.is_set():
            steps += 1
            time.sleep(0)

    thread = threading.Thread(target=step)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread.start()
        ready.wait()
        before = steps
        call()
        return steps - before
    finally:
        over.set()
        sys.setswitchinterval(interval)
        thread.join()


def test_the_method_itself():
    data = b"some bytes " * 500_000
    assert ticks_during(lambda: [number * number for number in range(200_000)]) <= 1
    assert any(ticks_during(lambda: zlib.compress(data, 1)) > 10 for _ in range(100))


def cases():
    import random

    from celers_fast import compression
    from celers_fast.percentiles import percentiles

    data = random.Random(5).randbytes(3000) * 2000
    texts = [data[at : at + 20_000] for at in range(0, len(data), 20_000)]
    packed = compression.compress_payload(data)
    doubles = array("d", [random.Random(5).random() for _ in range(1000)]) * 2000
    return {
        "compress_payload": lambda: compression.compress_payload(data),
        "compress_payloads": lambda: compression.compress_payloads(texts),
        "decompress_payload": lambda: compression.decompress_payload(packed),
        "percentiles": lambda: percentiles(doubles, (50, 95, 99)),
    }


@pytest.mark.parametrize("name", ["compress_payload", "compress_payloads", "decompress_payload", "percentiles"])
def test_other_threads_run(name):
    call = cases()[name]
    # The other thread needs a processor for it, which a busy machine may refuse for as long as one call takes.
    assert any(ticks_during(call) > 10 for _ in range(100))
