"""What `benchmarks.compare` measures, in which order, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Plan", "Step", "plan_of"]


@dataclass(frozen=True)
class Step:
    """One measurement: which method of which contenders, with which arguments."""

    key: str
    call: str
    args: dict[str, Any]
    who: tuple[str, ...]
    """``celers``, ``floor`` and ``peers``."""
    rounds: int | None = None
    """Only in so many rounds; in all when None."""
    shared: bool = True
    """Is the number of tasks cut down for slow contenders?"""
    logged: bool = True
    """Also on the servers with a binary log? Not where it takes long and nothing is written, or only by slow peers."""


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes
    ----------
    blocks
        Steps whose results are divided by each other: one server at a time takes all steps of a block, so that little
        time passes between the two.
    rounds
        How often all of it is repeated, at most.
    """

    blocks: list[list[Step]]
    rounds: int

    @property
    def steps(self) -> list[Step]:
        """All steps."""
        return [step for block in self.blocks for step in block]


OURS = ("celers",)
BOTH = ("celers", "floor")
EVERYBODY = ("celers", "floor", "peers")


def plan_of(*, quick: bool, scale: float = 1.0, rounds: int | None = None) -> Plan:
    """Return what a run measures, and how much of it.

    Parameters
    ----------
    quick : bool
        Small sizes and few rounds: under ten minutes on two cores, with all peers.
    scale : float
        Factor on all sizes.
    rounds : int, optional
        Number of rounds; 3 or 5 when None. A run with a limit of time ends after fewer.
    """

    def size(small: int, large: int, smallest: int = 100) -> int:
        return max(smallest, int((small if quick else large) * scale))

    single = {"count": size(1500, 4000), "smallest": 60}
    batch = {"count": size(20_000, 40_000, 1000), "smallest": 1000, "step": 1000}
    drain = {"count": size(20_000, 40_000, 1000), "smallest": 150}
    # Four workers that claim 500 each are over before a watch sees them begin, if there are few tasks.
    many = {"count": size(20_000, 60_000, 5000), "smallest": 150, "workers": 4}
    slow = {"count": size(1000, 3000)}
    network = {"count": size(8000, 16_000, 600), "batch": 100}
    some = {"count": size(2000, 6000, 800)}
    deep = size(100_000, 1_000_000, 1000)
    claims = {"claims": size(200, 400, 30)}
    pause = [0.05, 0.15]
    once = {"shared": False, "logged": False}
    blocks = [
        [
            Step("enqueue_broker", "measure_broker_single", single, OURS),
            Step("enqueue", "measure_enqueue_single", single, EVERYBODY),
        ],
        [
            Step("batch_broker", "measure_broker_batch", batch, OURS),
            Step("batch", "measure_enqueue_batch", batch, EVERYBODY),
            Step("executemany", "measure_executemany", batch, ("floor",)),
        ],
        [Step("claim_ack", "measure_claim_ack", {"count": size(10_000, 20_000, 300)}, BOTH)],
        [Step("drain_1", "measure_drain", drain | {"workers": 1}, EVERYBODY)],
        [Step("drain_4", "measure_drain", many, EVERYBODY)],
        [Step("drain_1_results", "measure_drain", drain | {"workers": 1, "results": True}, BOTH)],
        [Step("drain_4_results", "measure_drain", many | {"results": True}, BOTH)],
        [Step("drain_single", "measure_drain", slow | {"workers": 1, "batch": 1, "threads": 1}, BOTH)],
        [
            Step("network", "measure_network", network, BOTH),
            Step("network_classic", "measure_network", network | {"classic": True}, ("floor",)),
        ],
        [
            Step("threads", "measure_producer_threads", some, OURS),
            Step("async", "measure_producer_async", some, OURS),
            Step("buffer", "measure_producer_async", {"count": size(4000, 20_000, 800), "buffered": True}, OURS),
        ],
        [
            # A task at a time: a slow contender waits no longer than others.
            Step("pickup", "measure_pickup", {"count": size(30, 100, 5), "pause": pause}, OURS, 2, shared=False),
            Step("pickup", "measure_pickup", {"count": size(12, 40, 5), "pause": pause}, ("peers",), 1, **once),
        ],
        [Step("round_trips", "measure_round_trips", {}, OURS, 1)],
        [Step("busy_worker", "measure_busy_worker", {"count": size(10_000, 20_000, 1000)}, OURS, 1)],
        [Step("idle", "measure_idle", {"secs": max(2.0, (10 if quick else 30) * min(1.0, scale))}, OURS, 1, **once)],
        [Step("ring_cost", "measure_ring_cost", {"count": size(2000, 4000)}, OURS, 2)],
        *(
            [Step(f"depth_{case}", "measure_depth", {"case": case, "count": rows} | claims, OURS, 1, **once)]
            for case, rows in (
                ("ready", deep),
                ("future", deep),
                ("other", max(1000, deep // 5)),
                ("finished", deep),
            )
        ),
    ]
    return Plan(blocks, rounds or (3 if quick else 5))
