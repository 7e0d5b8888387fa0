"""Memory for the tensors of a step: what one step has freed, the next one takes again."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_LARGEST = 32 << 20  # glibc takes no larger one; blocks beyond it are mapped anew every time


def keep_memory() -> None:
    """Makes glibc's malloc keep up to 1 GB of freed memory, and take blocks of up to 32 MB from it.

    By default it gives what a step has freed back to the system, and the next step touches new pages, one page fault
    for every 4 kB. Where malloc is another one (macOS, Windows, musl), nothing changes.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, 1 << 30)
