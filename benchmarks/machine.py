"""Facts about the machine that a benchmark runs on."""

import os
import platform
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def describe_cpus() -> dict[str, Any]:
    return {"cpus": os.cpu_count() or 1, "processor": platform.machine()}


def shared_memory() -> set[str]:
    """Names of this machine's segments, except those that only other programs create.

    Those are a browser's segments, and the semaphores of Python's multiprocessing.
    """
    others = ("chromium", "sem.mp-")
    return {name for name in os.listdir("/dev/shm") if not any(part in name for part in others)}


def describe_machine() -> dict[str, Any]:
    """Adds the accelerator and the number of CPUs that are free now. Prints both."""
    import torch  # here, because other benchmarks need no torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    facts = describe_cpus()
    num_free = round(measure_cpus(facts["cpus"]), 2)
    print(f"accelerator: {gpu}")
    print(f"{facts['cpus']} CPUs, {num_free} free now: the most that ranks or an overlap can gain")
    return {**facts, "cpus_free": num_free, "accelerator": gpu}


def measure_cpus(num_threads: int) -> float:
    """Work of `num_threads` threads at the same time, as a multiple of the work of one thread.

    The median of three rounds of half a second each; the work is matrix products.
    """
    import torch

    x = torch.randn(768, 768)

    def count_products(_: int) -> int:
        torch.set_num_threads(1)
        end, num_products = time.perf_counter() + 0.5, 0
        while time.perf_counter() < end:
            x @ x
            num_products += 1
        return num_products

    with ThreadPoolExecutor(num_threads) as threads:
        rounds = [
            [sum(threads.map(count_products, range(num))) for num in (1, num_threads)]
            for _ in range(3)
        ]
    one, many = (statistics.median(products[i] for products in rounds) for i in (0, 1))
    return many / one
