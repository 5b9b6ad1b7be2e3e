"""Runs compiled code in a forked child whose parent has used threads."""

import multiprocessing

import torch


def in_both(work):
    """Return the results of `work()` with two threads, and in a forked child that would use two as well."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        own = work()
    finally:
        torch.set_num_threads(before)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_answer, args=(work, queue))
    child.start()
    child.join(60)
    hangs = child.is_alive()
    child.kill()
    assert not hangs
    return own, queue.get()


def _answer(work, queue):
    # Operations of torch would wait for the parent's threads, as in any forked child. Only our code uses two threads.
    torch.set_num_threads(1)
    torch.get_num_threads = lambda: 2
    queue.put(work())
