"""What a failing disk does to files."""

import os
from pathlib import Path


def flip_a_byte(file: Path, place: float = 0.5) -> None:
    """Flips one bit somewhere in a file, from 0 (its first byte) to 1, with size and time kept."""
    status, data = file.stat(), bytearray(file.read_bytes())
    data[min(int(len(data) * place), len(data) - 1)] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
