"""What compiled code finds in a forked child, whose parent has used threads."""

import multiprocessing

import torch


def in_both(work):
    """`work()` with two threads, then in a forked child which would use two as well: both results."""
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
    # torch's own operations would wait for the parent's threads, as they do in any forked child: only our code is told of two.
    torch.set_num_threads(1)
    torch.get_num_threads = lambda: 2
    queue.put(work())
