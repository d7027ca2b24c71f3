"""C++ that this machine's compiler compiles at first use, kept on disk for the next process."""

import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orthrus_core.disk_cache import disk_cache

logger = logging.getLogger(__name__)

COMPILERS = ("g++", "clang++", "c++")
HEADER = Path(__file__).with_name("lanes.h")
# left to themselves, compilers fuse products and sums where they like, and bits depend on it
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-ffp-contract=off")
POINTER, LONG, INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
COMPILE_TIMEOUT_S = 120


class KernelError(RuntimeError):
    """A kernel cannot be had on this machine or for this shape."""


def has_triton() -> bool:
    """Whether triton is installed, which compiles the other kernels."""
    return importlib.util.find_spec("triton") is not None


def build_library(name: str, source: Path, options: Sequence[str] = ()) -> str:
    """Return the path of the compiled library, compiling it where the cache has none (about a second).

    Args:
        name: its file's name begins so.
        source: one C++ file.
        options: of the compiler, beside those that all share.
    Raises:
        KernelError: no compiler, or one that refuses.
    """
    compiler = _find_compiler()
    command = [compiler, *FLAGS, *options]
    parts = [source.read_bytes(), HEADER.read_bytes(), *map(str.encode, command), _target(compiler)]
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()
    path = disk_cache("kernels") / f"{name}-{key[:32]}.so"
    if not path.exists():
        _compile([*command, "-I", str(HEADER.parent), str(source)], path)
    return str(path)


@functools.cache
def load_library(path: str) -> ctypes.CDLL:
    """Return a compiled library, loaded once per process.

    Raises:
        KernelError: it cannot be loaded.
    """
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise KernelError(f"cannot load {path}: {error}") from error


def load_function(path: str, name: str, arguments: Sequence[Any]) -> Any:
    """Return a function without a result of a compiled library; `arguments` are its ctypes."""
    function = getattr(load_library(path), name)
    function.argtypes, function.restype = arguments, None
    return function


def _find_compiler() -> str:
    named = os.environ.get("CXX")
    for name in [named] if named else COMPILERS:
        if path := shutil.which(name):
            return path
    raise KernelError(f"no C++ compiler found: tried {named or ', '.join(COMPILERS)}")


def _target(compiler: str) -> bytes:
    """What the compiler defines for this processor: a cache may be shared by unlike machines."""
    return _run([compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])


def _compile(command: list[str], path: Path) -> None:
    logger.info("compiling kernel=%s", path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as directory:
            built = Path(directory) / path.name
            _run([*command, "-o", str(built)])
            os.replace(built, path)  # whole or not at all, whoever else compiles the same
    except OSError as error:
        raise KernelError(f"cannot write {path}: {error}; set ORTHRUS_CACHE_DIR to a directory") from error
    logger.info("compiled kernel=%s", path)


def _run(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_TIMEOUT_S).stdout
    except subprocess.CalledProcessError as error:
        raise KernelError(f"{command[0]} failed: {error.stderr.decode(errors='replace')[-500:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"{command[0]} failed: {error}") from error
