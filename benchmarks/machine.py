"""What the machine has to give to a benchmark that wants several CPUs at once."""

import os
import platform
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def describe_machine() -> dict[str, Any]:
    """Facts for the JSON line; printed as well."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    cpus = os.cpu_count() or 1
    worth = round(measure_cpus(cpus), 2)
    print(f"accelerator: {gpu}")
    print(f"{cpus} CPUs, worth {worth} at the moment: the most that ranks or an overlap can gain")
    processor = platform.machine()
    return {"cpus": cpus, "cpus_worth": worth, "processor": processor, "accelerator": gpu}


def measure_cpus(num_threads: int) -> float:
    """How many times the arithmetic of one thread this many get done now, at the same time."""
    x = torch.randn(768, 768)

    def count(_: int) -> int:
        torch.set_num_threads(1)
        end, products = time.perf_counter() + 0.5, 0
        while time.perf_counter() < end:
            x @ x
            products += 1
        return products

    with ThreadPoolExecutor(num_threads) as threads:
        rounds = [
            [sum(threads.map(count, range(num))) for num in (1, num_threads)] for _ in range(3)
        ]
    one, many = (statistics.median(products[i] for products in rounds) for i in (0, 1))
    return many / one
