"""The small model of the pipelines' tests."""

from tests.pipelines.conftest import model_dir  # noqa: F401
