"""How much memory a device has, and how much of it an engine may still take."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

CGROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of a device.

    Attributes:
        total: all of a GPU; beside a CPU what is free, since others will not give theirs back.
        free: what nobody holds.
    """

    total: int
    free: int

    def left(self, share: float) -> int:
        """Bytes that may still be taken if `share` of all may be filled; below 0 where more is."""
        return int(share * self.total) - (self.total - self.free)


def device_memory(device: torch.device) -> DeviceMemory | None:
    """Return the memory of a device as it is now; None for devices that do not say."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(total, free)
    if device.type != "cpu":
        return None
    free = free_ram()
    return DeviceMemory(free, free)


def free_ram() -> int:
    """Bytes of RAM that this process may take before the machine or a cgroup above it has no more."""
    return max(0, min([_available(), *_left_in_cgroups()]))


def _available(meminfo: Path = Path("/proc/meminfo")) -> int:
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_in_cgroups(root: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Limit less usage of each cgroup that this process is in; file pages to be dropped count as free."""
    left = []
    for directory in _cgroups(root, membership):
        for limit, usage in CGROUP_FILES:
            try:
                most, used = (directory / limit).read_text().strip(), int((directory / usage).read_text())
                cached = (directory / "memory.stat").read_text().split()
            except (OSError, ValueError):
                continue  # the other version of cgroups, or the root, which has no limit
            if most.isdigit():
                left.append(int(most) - used + _inactive_file(cached))
    return left


def _cgroups(root: Path, membership: Path) -> list[Path]:
    """Directories of this process's cgroups and of all above them, whichever of both places they lie in."""
    if not membership.exists():
        return []
    directories: dict[Path, None] = {}
    for line in membership.read_text().splitlines():
        controllers, path = line.split(":", 2)[1:]
        if controllers in ("", "memory"):
            below = root / controllers
            whole = below / path.strip("/")
            directories |= dict.fromkeys(one for one in (whole, *whole.parents) if one.is_relative_to(below))
    return list(directories)


def _inactive_file(stat: list[str]) -> int:
    names = dict(zip(stat[::2], stat[1::2], strict=True))
    return int(names.get("total_inactive_file", names.get("inactive_file", 0)))
