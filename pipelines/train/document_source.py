"""Where the documents of a backbone's training come from: a module that the config names."""

import importlib
from typing import Any, Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from orthrus_core.errors import ConfigError
from orthrus_core.training.packing import Document
from pipelines.train.stream import Documents

NAMES = ("TrainingDocuments", "held_out_documents", "right_answers")


class DocumentSource(Protocol):
    """What such a module offers."""

    def TrainingDocuments(  # noqa: N802
        self, tokenizer: PreTrainedTokenizerBase, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> Documents:
        """Documents without end; rank r of w gets others than the rest."""

    def held_out_documents(self, tokenizer: PreTrainedTokenizerBase, count: int) -> list[Document]:
        """Documents that training never sees."""

    def right_answers(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int) -> float:
        """Share of held-out prompts that a model answers right."""


def document_source(name: str) -> DocumentSource:
    """Import the module.

    Raises:
        ConfigError: there is none of this name, or it lacks one of NAMES.
    """
    try:
        module: Any = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"data.source: {error}; give a module such as pipelines.demo.documents") from None
    if missing := [one for one in NAMES if not hasattr(module, one)]:
        raise ConfigError(f"data.source: module {name} lacks {', '.join(missing)}")
    return module
