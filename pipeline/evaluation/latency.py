"""How long a victim takes to answer one query: measured, so beside results and never in them."""

import statistics
import time

import torch
from torch import Tensor

from pipeline.core.ensemble import Combination

QUERIES = 20  # of one image each, after as many to warm up


def milliseconds(victim: Combination, images: Tensor) -> float:
    """Median time of a query; a random victim answers with the member it draws."""
    victim.reseed(0)
    rows = [images[i % len(images)][None] for i in range(2 * QUERIES)]
    times = []

    with torch.no_grad():
        for row in rows:
            # A GPU call returns before its work is done: without waiting only the call is timed.
            _wait(row)
            begun = time.perf_counter()
            victim(row)
            _wait(row)
            times.append(time.perf_counter() - begun)

    return 1000 * statistics.median(times[QUERIES:])


def _wait(images: Tensor) -> None:
    """Until the device has done what it was given."""
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
