"""Which code made a result."""

import importlib.metadata
import platform

import orthrus_core

PACKAGES = ("torch", "transformers", "tokenizers", "ray", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter to the result."""
    found = {"python": platform.python_version(), "orthrus": orthrus_core.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
