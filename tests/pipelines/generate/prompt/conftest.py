"""What tests of the generate job share."""

import pytest

from pipelines.generate.prompt.template_process import TemplateProcess


@pytest.fixture(scope="session")
def chat_process() -> TemplateProcess:
    """One process for chat templates: each takes about a second to start."""
    return TemplateProcess(None, 5.0)
