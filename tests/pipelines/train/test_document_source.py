"""Documents of a backbone's training come from a module that the config names."""

import pytest

from orthrus_core.errors import ConfigError
from pipelines.train.document_source import document_source


def test_the_demo_is_such_a_module():
    assert document_source("pipelines.demo.documents").held_out_documents


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipelines.nothing", "No module named 'pipelines.nothing'"),
        ("pipelines.demo.rows", "module pipelines.demo.rows lacks TrainingDocuments"),
    ],
)
def test_a_module_that_is_none_is_refused(name, message):
    with pytest.raises(ConfigError, match=f"data.source: .*{message}"):
        document_source(name)
