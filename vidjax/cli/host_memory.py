"""Memory of a training on a CPU: kept from step to step, in huge pages.

XLA asks for a step's memory, gigabytes, when it begins and gives it back at its end. The C library returns blocks of
that size to the system, which clears every page again when it is next asked for: that can take as long as the step.
"""

import ctypes
import importlib.metadata
import importlib.util
import os

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
"""Names of mallopt(3) for: how much may lie free at the heap's end, how many blocks may be outside of the heap, and how
many heaps there are. Blocks beyond 64 MB fit into the first heap only."""

MADV_HUGEPAGE = 14
"""Of madvise(2): 2 MB at once are mapped, and found again with one look."""


def keep_host_memory() -> bool:
    """Let this process keep what memory it has taken, where a CPU computes and the C library is glibc; whether it does.

    To be called before anything starts threads, which would have heaps of their own.
    """
    libc = ctypes.CDLL(None)
    if _has_accelerators() or not hasattr(libc, "gnu_get_libc_version"):
        return False
    for name, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)):
        libc.mallopt(name, value)
    # The heap's end, so far only addresses, is taken and freed again: what was said of it holds when it is used.
    page = os.sysconf("SC_PAGE_SIZE")
    size = os.sysconf("SC_PHYS_PAGES") // 2 * page
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(size)
    if block is None:
        return True
    start = -(-block // page) * page
    libc.madvise(start, size - page, MADV_HUGEPAGE)
    libc.free(block)
    return True


def _has_accelerators() -> bool:
    # As JAX finds its plugins; importing it would start threads.
    names = ("jax_plugins", "libtpu")
    return any(importlib.util.find_spec(name) for name in names) or bool(
        importlib.metadata.entry_points(group="jax_plugins")
    )
