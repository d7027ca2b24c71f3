"""A function of the user's: found by the driver, sent to every worker by value, known by its source."""

import functools
import hashlib
import importlib
import os
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from orthrus_core.errors import ConfigError

RowFunction = Callable[[list[dict[str, Any]]], Sequence[Mapping[str, Any] | Exception]]


@dataclass(frozen=True)
class Hook:
    """A function over rows.

    Attributes:
        option: that names it, `input.map` or `output.map`.
        columns: what is taken of the rows that it returns.
        code: hash of its module's source.
        content: the function pickled, its module by value unless that is installed.
    """

    option: str
    columns: pa.Schema
    code: str
    content: bytes

    @property
    def function(self) -> RowFunction:
        """The function itself, one for all calls of a process: what it keeps in its module stays."""
        return _unpickled(self.content)


@dataclass(frozen=True)
class Hooks:
    """The functions of a run."""

    input: Hook | None = None
    output: Hook | None = None

    @property
    def identity(self) -> dict[str, str]:
        """The code that rows go through, for the identity of the run."""
        return {f"{one.option}_code": one.code for one in (self.input, self.output) if one is not None}


def load_hook(option: str, name: str | None, columns: pa.Schema) -> Hook | None:
    """Find a function.

    Args:
        name: package.module:function, of an installed module or of one in the working directory; None: none.
    Raises:
        ConfigError: there is no such function, its module cannot be imported, or it cannot be sent.
    """
    if name is None:
        return None
    module_name, _, path = name.partition(":")
    module = _imported(option, module_name)
    try:
        function = functools.reduce(getattr, path.split("."), module)
    except AttributeError:
        raise ConfigError(f"{option}: module {module_name} ({module.__file__}) has no {path}") from None
    if not callable(function):
        raise ConfigError(f"{option}: {name} must be a function, got {type(function).__name__}")
    assert module.__file__ is not None
    code = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()[:16]
    return Hook(option, columns, code, _pickled(option, function, module))


def _imported(option: str, name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a script's own directory is there in its place
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever its own code raises
        raise ConfigError(
            f"{option}: cannot import {name} (looked in {os.getcwd()} and among installed packages): "
            f"{type(error).__name__}: {error}"
        ) from None
    if not str(module.__file__ or "").endswith(".py"):
        raise ConfigError(f"{option}: {name} has no Python source, by which the run would know its code")
    return module


def _pickled(option: str, function: Any, module: ModuleType) -> bytes:
    """The function with all of its package that it uses; of an installed one only the name."""
    from ray import cloudpickle  # late: it takes a second

    package = sys.modules[module.__name__.partition(".")[0]]
    by_value = not _is_installed(module)
    if by_value:
        cloudpickle.register_pickle_by_value(package)
    try:
        return cloudpickle.dumps(function)
    except Exception as error:
        raise ConfigError(
            f"{option}: the function cannot be sent to workers: {type(error).__name__}: {error}; make what "
            "cannot be pickled (clients, locks, models) when the function is first called"
        ) from None
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(package)


def _is_installed(module: ModuleType) -> bool:
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}
    return any(Path(str(module.__file__)).is_relative_to(folder) for folder in folders)


@functools.lru_cache(maxsize=8)
def _unpickled(content: bytes) -> RowFunction:
    from ray import cloudpickle

    return cloudpickle.loads(content)
