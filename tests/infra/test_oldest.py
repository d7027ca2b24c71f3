"""The versions that `make test-oldest` installs."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def test_they_are_the_lowest_that_the_package_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = {one.name: one.specifier for one in map(Requirement, project["dependencies"])}
    lines = (ROOT / "infra/oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if "==" in line)
    assert set(oldest) == {"torch", "transformers"}
    for name, version in oldest.items():
        [bound] = allowed[name]
        assert (bound.operator, Version(bound.version)) == (">=", Version(version))
