"""Where what this machine has compiled is kept from one process to the next."""

import hashlib
import os
import platform
from pathlib import Path


def disk_cache(name: str) -> Path:
    """Return a directory below `$ORTHRUS_CACHE_DIR`, or below orthrus/ in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("ORTHRUS_CACHE_DIR") or Path(base, "orthrus")) / name


def processor_key() -> str:
    """Return a short hash of what this processor can do: a cache may be shared by unlike machines."""
    known = platform.machine() + platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        pass  # no Linux: machine and processor have to do
    return hashlib.sha256(known.encode()).hexdigest()[:12]
