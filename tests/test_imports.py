"""Imports go from jobs to pipelines to orthrus_core; orthrus_core knows no data or cluster library."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "orthrus_core": {"pipelines", "jobs", "tests", "ray", "pyarrow", "datasets", "fsspec"},
    "pipelines": {"jobs", "tests"},
    "jobs": {"tests"},
    "tests/benchmarks/gpu": {"pipelines", "jobs", "ray", "pyarrow", "datasets", "fsspec"},  # a bare machine's
}


def imported_packages(source: str) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


def wrong_imports(root: Path) -> list[str]:
    """Every forbidden import under `root`, as "file:line imports package"."""
    return [
        f"{path.relative_to(root)}:{line} imports {name}"
        for package, forbidden in FORBIDDEN.items()
        for path in sorted((root / package).rglob("*.py"))
        for line, name in imported_packages(path.read_text())
        if name in forbidden
    ]


def test_imports_go_from_jobs_to_pipelines_to_orthrus_core_only():
    assert all(any((ROOT / package).rglob("*.py")) for package in FORBIDDEN)
    assert wrong_imports(ROOT) == []


@pytest.mark.parametrize(
    ("file", "source", "package"),
    [
        ("orthrus_core/engine/engine.py", "import ray\n", "ray"),
        ("orthrus_core/cache.py", "def f():\n    from pyarrow.parquet import read_table\n", "pyarrow"),
        ("orthrus_core/models/model.py", "import json, fsspec.core as core\n", "fsspec"),
        ("orthrus_core/__init__.py", "if True:\n    from datasets import Dataset\n", "datasets"),
        ("orthrus_core/errors.py", "from pipelines import config\n", "pipelines"),
        ("orthrus_core/errors.py", "import jobs.generate\n", "jobs"),
        ("pipelines/demo/tokenizer.py", "from jobs.train import main\n", "jobs"),
        ("jobs/train.py", "from tests.small_models import small_backbone\n", "tests"),
    ],
)
def test_a_planted_wrong_import_is_found(file, source, package, tmp_path):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(source)
    line = source.rstrip().count("\n") + 1
    assert wrong_imports(tmp_path) == [f"{file}:{line} imports {package}"]


def test_allowed_imports_are_no_fault(tmp_path):
    for file, source in {
        "orthrus_core/cache.py": "import torch\nfrom orthrus_core import errors\n",
        "pipelines/plan.py": "import ray, pyarrow\nfrom orthrus_core import Engine\n",
        "jobs/generate.py": "from pipelines import config\nimport orthrus_core\n",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(source)
    assert wrong_imports(tmp_path) == []
