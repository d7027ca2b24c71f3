"""The official suite of JSON schemas: no grammar admits a text that its schema forbids."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orthrus_core import SamplingParams
from orthrus_core.choosers.grammar_compiler import GrammarCompiler
from orthrus_core.errors import RequestError
from tests.tokenizers import fast_tokenizer

SUITE = Path(__file__).parents[3].parent / "shared/data/json-schema/draft2020-12"
LENIENT_FORMATS = {"date", "date-time", "hostname", "time"}  # named in docs/structured-output.md

pytestmark = pytest.mark.skipif(not SUITE.exists(), reason=f"no {SUITE}")


@pytest.fixture(scope="module")
def admits():
    """Whether a grammar admits a text; None: the schema is refused."""
    tokenizer = fast_tokenizer(style="llama")
    compiler = GrammarCompiler(tokenizer, vocab_size=len(tokenizer))

    def answer(schema: dict, text: str) -> bool | None:
        try:
            state = compiler.new_state(SamplingParams(json_schema=schema), [tokenizer.eos_token_id])
        except RequestError:
            return None
        ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in text.encode()]
        matcher = state._matcher
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return answer


def cases(folder: Path) -> Iterator[tuple[str, dict, str, bool]]:
    for file in sorted(folder.glob("*.json")):
        for group in json.loads(file.read_text()):
            schema = group["schema"]
            if not isinstance(schema, dict):
                continue
            for test in group["tests"]:
                text = json.dumps(test["data"], ensure_ascii=False)
                yield f"{file.stem}: {test['description']}", schema, text, test["valid"]


def test_no_text_that_a_schema_forbids_is_admitted(admits):
    admitted = [(name, valid) for name, schema, text, valid in cases(SUITE) if admits(schema, text)]
    assert [name for name, valid in admitted if not valid] == []
    assert len(admitted) > 200


def test_formats_admit_no_invalid_text_but_for_those_that_the_docs_name(admits):
    found = {
        schema["format"]
        for _, schema, text, valid in cases(SUITE / "optional/format")
        if not valid and admits(schema | {"type": "string"}, text)
    }
    assert found == LENIENT_FORMATS
    page = (Path(__file__).parents[3] / "docs/structured-output.md").read_text()
    assert all(f"`{name}`" in page for name in found)
