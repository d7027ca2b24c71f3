"""The project's manifests, rendered once."""

import pytest

from infra.validate.__main__ import overlays
from infra.validate.kustomize import build
from infra.validate.schemas import Schemas


@pytest.fixture(scope="session")
def schemas():
    return Schemas()


@pytest.fixture(scope="session")
def rendered():
    return {path.name: build(path) for path in overlays()}
