"""Ids that several input rows have: found by their hashes, of which a run keeps a bounded number.

A large run looks at a share of all possible hashes: of an id it sees every row or none.
"""

import base64
import hashlib
from collections.abc import Iterable

import numpy as np

MOST_IDS = 1_000_000  # hashes of 8 bytes that the driver keeps of a run
BITS = 64


def kept_share(num_rows: int) -> float:
    """Share of the ids that a run of so many rows looks at."""
    return min(1.0, MOST_IDS / max(1, num_rows))


def hash_ids(ids: Iterable[str], share: float) -> str:
    """Hashes of those ids that belong to the share, as text for a footer."""
    limit = int(share * 2**BITS)
    digests = (hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest() for one in ids)
    return base64.b64encode(b"".join(d for d in digests if int.from_bytes(d, "little") < limit)).decode()


def count_repeats(hashes: bytes | bytearray, share: float) -> int:
    """Rows whose id an earlier row has; an estimate where the share is below 1.

    Args:
        hashes: of all rows that the share holds, one after the other.
    """
    found = np.frombuffer(hashes, "<u8")
    return round((len(found) - len(np.unique(found))) / share) if share else 0
