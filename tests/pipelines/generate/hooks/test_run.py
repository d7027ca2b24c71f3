"""Hooks in whole runs on Ray."""

import json
import sys

import pyarrow.dataset as ds
import pytest

from orthrus_core.errors import ConfigError
from pipelines.generate.build import run_job
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.job.preview import preview
from pipelines.generate.watch.inspect import inspect_run
from pipelines.generate.watch.progress import Progress
from tests.fakes import fake_engine
from tests.pipelines.conftest import generate_tree, job_of, run_tree

CODE = """
def prepare(rows):
    return [{"question": f"Add {row['a'] + 0} and 1.", "key": f"k{row['a']}"} for row in rows]

def score(rows):
    return [
        ValueError("even") if len(row["key"]) == 2 and int(row["key"][1:]) == BAD
        else {"length": len(row["completion"]), "kept": int(row["key"][1:]) != 3}
        for row in rows
    ]
"""


@pytest.fixture
def hooked(model_dir, tmp_path, monkeypatch):
    """A config whose rows go through functions of a module in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    write_code(tmp_path, bad=5)
    rows = [{"a": n} for n in range(9)] + [{"a": "x"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = generate_tree(model_dir, tmp_path / "rows.jsonl", tmp_path / "out", unit_rows=4)
    tree["input"] |= {
        "prompt": {"column": "question"},
        "id_column": "key",
        "map": "hook_code:prepare",
        "map_columns": {"question": "string", "key": "string"},
    }
    tree["output"] |= {
        "map": "hook_code:score",
        "map_columns": {"length": "int32", "kept": "bool"},
        "filters": {"keep": "kept"},
    }
    tree["audit"] = {"enabled": False}
    yield tree
    sys.modules.pop("hook_code", None)


def write_code(path, *, bad: int) -> None:
    sys.modules.pop("hook_code", None)
    (path / "hook_code.py").write_text(f"BAD = {bad}\n{CODE}")


def rows_of(url) -> dict[str, dict]:
    return {row["id"]: row for row in ds.dataset(url).to_table().to_pylist()}


@pytest.mark.ray
def test_rows_go_through_both_functions_and_every_one_is_accounted_for(hooked, local_ray, tmp_path):
    job, report = run_tree(hooked, fake_engine)
    rows, dropped = rows_of(job.ledger.data_url), rows_of(job.ledger.dropped_url)
    assert sorted(rows) == ["0:9", *(f"k{n}" for n in (0, 1, 2, 4, 5, 6, 7, 8))]
    assert list(dropped) == ["k3"]
    assert dropped["k3"]["dropped_reason"] == "keep: kept is false"
    assert rows["k2"]["question"] == "Add 2 and 1."
    assert rows["k2"]["length"] == len(rows["k2"]["completion"]) > 0
    assert rows["0:9"]["error"].startswith("input.map: TypeError: ")
    failed = rows["k5"]
    assert [failed[name] for name in ("error", "finish_reason", "completion", "token_ids", "length")] == [
        "output.map: ValueError: even",
        "error",
        None,
        None,
        None,
    ]
    assert (report["rows_in"], report["rows"], report["dropped"], report["errors"]) == (10, 9, 1, 2)
    assert report["finish_reasons"]["error"] == 2
    assert sum(report["finish_reasons"].values()) == 10
    assert inspect_run(hooked["output"]["path"], verify=True).faults == []


@pytest.mark.slow
@pytest.mark.ray
def test_other_code_is_refused_and_repairs_error_rows(hooked, local_ray, tmp_path):
    job, _ = run_tree(hooked, fake_engine)
    before = rows_of(job.ledger.data_url)
    write_code(tmp_path, bad=-1)
    with pytest.raises(ConfigError, match=r"another run: input\.map_code was .*, output\.map_code was "):
        job_of(hooked)
    again = job_of(hooked, only_failed=True)
    report = run_job(again, Progress(total_rows=10, done_rows=0, every_s=60), fake_engine)
    after = rows_of(job.ledger.data_url)
    assert (report["rows"], report["dropped"], report["errors"]) == (9, 1, 1)
    assert after["k5"]["length"] == len(after["k5"]["completion"])
    assert {name: row for name, row in after.items() if name != "k5"} == {
        name: row for name, row in before.items() if name != "k5"
    }


def test_a_dry_run_shows_prompts_as_the_function_makes_them(hooked):
    found = preview(job_of(hooked))
    assert [row.id for _, row in found.rows] == ["k0", "k1", "k2"]
    assert "Add 1 and 1." in found.rows[1][0]


@pytest.mark.parametrize(
    ("section", "options", "fault"),
    [
        ("input", {"map_columns": {"question": "text"}}, "must be types such as string"),
        ("input", {"map": "no function"}, "must be package.module:function"),
        (
            "input",
            {"map_columns": {}},
            "or neither, map_columns is missing",
        ),
        ("output", {"map": None}, "must have both map and map_columns or neither, map is missing"),
        (
            "output",
            {"map_columns": {"error": "string"}},
            "must have names that no output .*, got error",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(hooked, section, options, fault):
    hooked[section] |= options
    with pytest.raises(ValueError, match=fault):
        GenerateConfig.model_validate(hooked)


@pytest.mark.parametrize(
    ("columns", "keep", "fault"),
    [
        ({"a": "bool"}, "a", "output.map_columns: there is a column a already"),
        ({"length": "int32"}, "length", "output.filters.keep: length is no column of type bool.*are none"),
    ],
)
def test_columns_that_do_not_fit_the_others_are_refused(hooked, columns, keep, fault):
    hooked["output"] |= {"map_columns": columns, "filters": {"keep": keep}}
    with pytest.raises(ConfigError, match=fault):
        job_of(hooked)
