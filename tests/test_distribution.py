"""The distribution: its name, its version, and what an installation needs."""

import re
import tomllib
from pathlib import Path

import pytest

import orthrus_core
from infra.docker.dockerfile import read_dockerfile
from pipelines.config.versions import versions

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXTS = ("*.md", "docs/*.md", "orthrus_core/**/*.py", "pipelines/**/*.py", "jobs/*.py", "infra/**/Dockerfile")


def test_the_version_is_told_once_more_in_the_package_and_is_the_same():
    assert orthrus_core.__version__ == PROJECT["version"]


def test_a_run_names_the_version_of_the_code_not_of_an_installed_package():
    assert versions()["orthrus"] == orthrus_core.__version__


@pytest.mark.parametrize("pattern", TEXTS)
def test_nobody_is_told_to_install_the_package_of_that_name_which_is_somebody_elses(pattern):
    files = sorted(ROOT.glob(pattern))
    assert files
    foreign = re.compile(r"pip install[^\n]*\borthrus(?!-bulk)\b|\borthrus\[")
    assert [str(file) for file in files if foreign.search(file.read_text())] == []


def test_extras_name_the_distribution_itself():
    own = [entry for entry in PROJECT["optional-dependencies"]["dev"] if entry.startswith("orthrus")]
    assert own == [f"{PROJECT['name']}[s3,hub]"]


def test_an_image_installs_with_the_files_that_the_project_names():
    copied = read_dockerfile(ROOT / "infra/docker/Dockerfile").copied("packages")
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= set(copied.values())
