"""The peak of the memory that tensors take during a call."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """Return `max over time of (bytes of all tensors) - (bytes before)` during a call that frees nothing older than itself.

    On a CPU, torch's profiler reports each allocation; on a GPU, the caching allocator has the peak.

    >>> peak_bytes(lambda: torch.ones(1000) + torch.ones(1000), torch.device("cpu")) // 1000
    12
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces its start and stop on stderr otherwise
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        run()
    kineto: Any = profiled.profiler
    events = [event for event in kineto.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()  # negative where memory is freed
        peak = max(peak, total)
    return peak
