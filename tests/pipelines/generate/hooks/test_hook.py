"""Finding the user's functions."""

import json
import subprocess
import sys

import pyarrow as pa
import pytest

from orthrus_core.errors import ConfigError
from pipelines.generate.hooks.hook import Hooks, load_hook

MADE = pa.schema([("x", pa.int64())])


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/__init__.py").touch()
    (tmp_path / "my_package/helper.py").write_text("def add(n):\n    return n + 1\n")
    (tmp_path / "my_package/maps.py").write_text(
        "import threading\n"
        "from my_package import helper\n"
        "lock = threading.Lock()\n"
        "number = 3\n"
        "def good(rows):\n    return [{'x': helper.add(row['x'])} for row in rows]\n"
        "def locked(rows):\n    with lock:\n        return rows\n"
    )
    yield tmp_path / "my_package"
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


def test_a_function_works_where_its_package_is_not(package, tmp_path):
    hook = load_hook("input.map", "my_package.maps:good", MADE)
    (tmp_path / "content").write_bytes(hook.content)
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import json; from ray import cloudpickle; "
        "print(json.dumps(cloudpickle.loads(open('../content','rb').read())([{'x': 1}])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "elsewhere", capture_output=True, check=True
    )
    assert json.loads(done.stdout) == [{"x": 2}]


def test_the_identity_changes_with_the_source(package):
    before = load_hook("input.map", "my_package.maps:good", MADE)
    with open(package / "maps.py", "a") as file:
        file.write("# changed\n")
    after = load_hook("input.map", "my_package.maps:good", MADE)
    assert before.code != after.code
    assert Hooks(input=before).identity == {"input.map_code": before.code}
    assert Hooks().identity == {}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("no_such_module:f", r"output\.map: cannot import no_such_module \(looked in .*ModuleNotFoundError"),
        ("my_package.maps:none", r"output\.map: module my_package\.maps \(.*maps\.py\) has no none"),
        ("my_package.maps:number", "output.map: my_package.maps:number must be a function, got int"),
        (
            "my_package.maps:locked",
            "the function cannot be sent to workers: TypeError: cannot pick",
        ),
        ("math:floor", "output.map: math has no Python source"),
    ],
)
def test_what_cannot_be_found_or_sent_is_refused(package, name, fault):
    with pytest.raises(ConfigError, match=fault):
        load_hook("output.map", name, MADE)
