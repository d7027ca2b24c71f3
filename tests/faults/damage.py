"""What a store or a hand may do to a file."""

import os
from pathlib import Path


def truncate(path: Path) -> None:
    """Cut a file in half."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """Leave nothing of a file but its name."""
    os.truncate(path, 0)


def spoil_footer(path: Path) -> None:
    """Flip the bits of the first bytes of a Parquet file's footer."""
    content = bytearray(path.read_bytes())
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # length and magic end the file
    content[start : start + 20] = bytes(byte ^ 0xFF for byte in content[start : start + 20])
    path.write_bytes(content)
