"""Options of object storage: where they end up, and where credentials must not."""

import logging
import pickle

import fsspec
import pytest
import yaml
from pydantic import ValidationError

from orthrus_core.errors import ConfigError
from pipelines.command.config_file import load_config
from pipelines.generate.config.job import GenerateConfig
from pipelines.storage.config import RedactFilter, StorageConfig, redact, use_storage

SECRET = "do-not-show-me"
FULL = {
    "endpoint_url": "http://127.0.0.1:9",
    "region": "eu-west-1",
    "key": f"{SECRET}-key",
    "secret": f"{SECRET}-secret",
    "token": f"{SECRET}-token",
    "options": {"gs": {"token": f"{SECRET}-gs"}, "s3": {"config_kwargs": {"connect_timeout": 3}}},
}


@pytest.fixture
def config_file(tmp_path):
    tree = {
        "input": {"paths": ["a"], "prompt": {"column": "q"}},
        "model": {"path": "m"},
        "output": {"path": "o"},
        "storage": FULL,
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "c.yaml"


def refusal(path, *overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(GenerateConfig, path, overrides)
    return str(caught.value)


def test_fsspec_gets_every_option(config_file):
    use_storage(load_config(GenerateConfig, config_file).storage)
    options = fsspec.config.conf["s3"]
    assert (options["endpoint_url"], options["key"]) == ("http://127.0.0.1:9", f"{SECRET}-key")
    assert (options["secret"], options["token"]) == (f"{SECRET}-secret", f"{SECRET}-token")
    assert options["client_kwargs"] == {"region_name": "eu-west-1"}
    assert options["config_kwargs"]["connect_timeout"] == 3
    assert options["config_kwargs"]["retries"] == {"mode": "standard", "total_max_attempts": 8}
    assert fsspec.config.conf["gs"] == {"token": f"{SECRET}-gs"}


def test_another_config_leaves_nothing_of_the_one_before():
    use_storage(StorageConfig(**FULL))
    use_storage(StorageConfig(anonymous=True))
    assert "key" not in fsspec.config.conf["s3"]
    assert fsspec.config.conf["s3"]["anon"] is True
    assert "gs" not in fsspec.config.conf


def test_a_file_system_of_the_new_config_is_another_one():
    use_storage(StorageConfig(**FULL))
    first = fsspec.filesystem("s3")
    use_storage(StorageConfig(**{**FULL, "key": "another-key"}))
    assert (first.key, fsspec.filesystem("s3").key) == (f"{SECRET}-key", "another-key")


def test_credentials_travel_by_pickle():
    use_storage(pickle.loads(pickle.dumps(StorageConfig(**FULL))))
    assert fsspec.config.conf["s3"]["secret"] == f"{SECRET}-secret"


def test_no_form_of_a_config_shows_a_credential(config_file):
    config = load_config(GenerateConfig, config_file)
    forms = [repr(config), str(config), config.model_dump_json(), str(config.model_dump(mode="json"))]
    assert not any(SECRET in form for form in forms)
    assert "eu-west-1" in forms[2]


@pytest.mark.parametrize(
    "override",
    [
        f"storage.key=[{SECRET}]",
        f"storage.options={SECRET}",
        f"storage.secret={{{SECRET}: 1}}",
        f"storage.secrett={SECRET}",
        f"storage.token=[{SECRET}",
        f"storage.endpoint_url=http://user:{SECRET}@host",
        f"input.paths=s3://key:{SECRET}@bucket/x",
        f"input.paths=s3://key:{SECRET}/with/slash@bucket/x",
        f"output.path=ftp://user:{SECRET}@host/x",
        f"model.path=https://host/model?X-Amz-Signature={SECRET}",
    ],
)
def test_no_refusal_shows_a_credential(config_file, override):
    text = refusal(config_file, override)
    assert SECRET not in text
    assert override.split("=")[0].removesuffix("t").split(".")[1] in text


def test_a_config_that_is_no_yaml_is_not_quoted(config_file):
    config_file.write_text(f"storage:\n  secret: '{SECRET}\n  key: x")
    text = refusal(config_file)
    assert "is not yaml" in text
    assert SECRET not in text


def test_pydantic_s_own_text_shows_no_credential():
    with pytest.raises(ValidationError) as caught:
        StorageConfig.model_validate({"key": [SECRET]})
    assert SECRET not in str(caught.value)


def test_credentials_in_an_s3_url_are_pointed_to_the_section(config_file):
    text = refusal(config_file, "input.paths=s3://key:secret@bucket/x")
    assert text.startswith("input.paths[0] must be a URL without credentials (s3://... has some)")
    assert "key and secret for S3" in text


@pytest.mark.parametrize(
    "url", ["s3://bucket/a:b@c", "s3://arn:aws:s3:eu:1:accesspoint/x/y", "/a:b@c", "hf://datasets/a/b@main"]
)
def test_ordinary_urls_are_let_through(config_file, url):
    assert load_config(GenerateConfig, config_file, [f"input.paths={url}"]).input.paths == (url,)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"key": "k"}, "both of key and secret"),
        ({"token": "t"}, "key and secret with token"),
        ({"profile": "p", "anonymous": True}, "at most one of anonymous, profile, key"),
    ],
)
def test_credentials_that_do_not_fit_together_are_refused(options, fault):
    with pytest.raises(ValidationError, match=fault):
        StorageConfig(**options)


def test_texts_and_log_records_are_cleared_of_credentials_in_use():
    use_storage(StorageConfig(**FULL))
    assert redact(f"denied for {SECRET}-key and {SECRET}-gs") == "denied for ********** and **********"
    record = logging.LogRecord("x", logging.INFO, "x", 1, "key %s", (f"{SECRET}-key",), None)
    assert RedactFilter().filter(record)
    assert record.getMessage() == "key **********"


def test_storage_is_no_part_of_a_run_s_identity(tree):
    from pipelines.checkpoint.directory import locate
    from pipelines.generate.job.job import run_identity

    plain = GenerateConfig.model_validate(tree)
    other = GenerateConfig.model_validate({**tree, "storage": FULL})
    checkpoint = locate(plain.model)
    assert run_identity(plain, checkpoint) == run_identity(other, checkpoint)
