"""The section `output`."""

import pytest

from pipelines.generate.config.compact import Compression
from pipelines.generate.config.output import OutputConfig


def test_a_codec_alone_is_a_compression():
    config = OutputConfig.model_validate({"path": "out", "compression": "snappy"})
    assert config.compression == Compression(codec="snappy", level=None)
    assert OutputConfig(path="out").compression == Compression(codec="zstd")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            {"compression": {"codec": "zstd", "level": 99}},
            "must have a level of -?[0-9]+ to 22 with zstd, got 99",
        ),
        ({"compression": {"codec": "snappy", "level": 1}}, "must have no level with snappy, got 1"),
        ({"compact": {"path": "a", "delta": "b"}}, "must have at most one of path and delta"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        OutputConfig.model_validate({"path": "out", **options})
