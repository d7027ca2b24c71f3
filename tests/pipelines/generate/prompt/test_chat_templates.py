"""Rows through the chat templates of model families; the expected texts are written by hand."""

import datetime
import json

import pytest

from orthrus_core.errors import ConfigError, RequestError
from pipelines.generate.config.prompt import PromptConfig
from pipelines.generate.prompt.renderer import PromptRenderer
from tests.pipelines.generate.prompt import chat_templates
from tests.tokenizers import fast_tokenizer

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
TOOL_JSON = '{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}'
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": " 1+2? "}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    ],
}
TOLD = {"role": "tool", "content": "3", "tool_call_id": "abcdefghi"}
SAID = {"role": "assistant", "content": "It is 3."}


@pytest.fixture
def renderer(chat_process):
    def build(template, **options):
        tokenizer = fast_tokenizer()
        tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
        tokenizer.chat_template = getattr(chat_templates, template)
        return PromptRenderer(tokenizer, PromptConfig(messages="m", **options), 4096, chat_process)

    return build


@pytest.fixture
def render(renderer):
    def text(template, messages, **row):
        return renderer(template, **row.pop("options", {})).text({"m": messages, **row})

    return text


PLAIN = {
    "SMOLLM2": """\
<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
<|im_start|>user
 1+2? <|im_end|>
<|im_start|>assistant
It is 3.<|im_end|>
<|im_start|>user
 1+2? <|im_end|>
<|im_start|>assistant
""",
    "QWEN3": """\
<|im_start|>user
 1+2? <|im_end|>
<|im_start|>assistant
It is 3.<|im_end|>
<|im_start|>user
 1+2? <|im_end|>
<|im_start|>assistant
""",
    "LLAMA31": """\
<s><|start_header_id|>system<|end_header_id|>

Cutting Knowledge Date: December 2023
Today Date: 26 Jul 2024

<|eot_id|><|start_header_id|>user<|end_header_id|>

1+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

It is 3.<|eot_id|><|start_header_id|>user<|end_header_id|>

1+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

""",
    "MISTRAL": "<s>[INST]  1+2? [/INST] It is 3.</s>[INST]  1+2? [/INST]",
    "GEMMA2": """\
<s><start_of_turn>user
1+2?<end_of_turn>
<start_of_turn>model
It is 3.<end_of_turn>
<start_of_turn>user
1+2?<end_of_turn>
<start_of_turn>model
""",
}
PLAIN["GEMMA3"] = PLAIN["GEMMA2"]
PLAIN["HERMES"] = PLAIN["QWEN3"]


@pytest.mark.parametrize("template", PLAIN)
def test_three_turns_open_a_fourth(render, template):
    assert render(template, [ASKED, SAID, ASKED]) == PLAIN[template]


@pytest.mark.parametrize("template", PLAIN)
def test_a_prefill_stands_behind_the_opened_turn(render, template):
    assert render(template, [ASKED, SAID, ASKED], options={"prefill": "So:\n"}) == PLAIN[template] + "So:\n"


# what stands before the last message's text, and what the template leaves out of it
CONTINUED = {
    "SMOLLM2": "<|im_start|>assistant\n",
    "QWEN3": "<|im_start|>assistant\n",
    "LLAMA31": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "MISTRAL": "[/INST] ",
    "GEMMA2": "<start_of_turn>model\n",
    "GEMMA3": "<start_of_turn>model\n",
    "HERMES": "<|im_start|>assistant\n",
}


@pytest.mark.parametrize("template", CONTINUED)
def test_a_last_answer_stays_open(render, template):
    text = render(template, [ASKED, SAID])
    assert text.endswith(CONTINUED[template] + "It is 3.")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("SMOLLM2", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"),
        ("QWEN3", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"),
        ("LLAMA31", "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user"),
        ("MISTRAL", "<s>[INST] Be brief.\n\n 1+2? [/INST]"),
        ("GEMMA3", "<s><start_of_turn>user\nBe brief.\n\n1+2?<end_of_turn>\n"),
    ],
)
def test_a_system_message_stands_where_the_template_wants_it(render, template, text):
    assert text in render(template, [SYSTEM, ASKED])


@pytest.mark.parametrize(
    ("messages", "reason"),
    [([SYSTEM, ASKED], "System role not supported"), ([ASKED, ASKED], "Conversation roles must alternate")],
)
def test_what_gemma_2_refuses_is_an_error_row(render, messages, reason):
    with pytest.raises(RequestError, match=f"chat template fails: TemplateError: {reason}"):
        render("GEMMA2", messages)


WITH_TOOLS = {
    "QWEN3": f"""\
<|im_start|>system
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{TOOL_JSON}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> \
XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call><|im_end|>
<|im_start|>user
 1+2? <|im_end|>
<|im_start|>assistant
<tool_call>
{{"name": "add", "arguments": {{"a": 1, "b": 2}}}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
3
</tool_response>
<tool_response>
3
</tool_response><|im_end|>
<|im_start|>assistant
""",
    "LLAMA31": """\
<s><|start_header_id|>system<|end_header_id|>

Environment: ipython
Cutting Knowledge Date: December 2023
Today Date: 26 Jul 2024

<|eot_id|><|start_header_id|>user<|end_header_id|>

Given the following functions, please respond with a JSON for a function call that answers the given prompt.

{
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object"
        }
    }
}

1+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

{"name": "add", "parameters": {"a": 1, "b": 2}}<|eot_id|><|start_header_id|>ipython<|end_header_id|>

"3"<|eot_id|><|start_header_id|>ipython<|end_header_id|>

"3"<|eot_id|><|start_header_id|>assistant<|end_header_id|>

""",
    "MISTRAL": f"""\
<s>[AVAILABLE_TOOLS] [{TOOL_JSON}][/AVAILABLE_TOOLS][INST]  1+2? [/INST]\
[TOOL_CALLS] [{{"name": "add", "arguments": {{"a": 1, "b": 2}}, "id": "abcdefghi"}}]</s>\
[TOOL_RESULTS] {{"content": 3, "call_id": "abcdefghi"}}[/TOOL_RESULTS]\
[TOOL_RESULTS] {{"content": 3, "call_id": "abcdefghi"}}[/TOOL_RESULTS]""",
    "HERMES": f"""\
<|im_start|>system
You are a function calling AI model. Function signatures are within <tools> </tools> XML tags:\
 <tools> {TOOL_JSON} </tools><|im_end|>
<|im_start|>user
 1+2? <|im_end|>
<|im_start|>assistant
<tool_call>
{{"name": "add", "arguments": {{"a": 1, "b": 2}}}}
</tool_call><|im_end|>
<|im_start|>tool
<tool_response>
3
</tool_response><|im_end|>
<|im_start|>tool
<tool_response>
3
</tool_response><|im_end|>
<|im_start|>assistant
""",
}


@pytest.mark.parametrize("template", WITH_TOOLS)
@pytest.mark.parametrize("form", ["job", "column", "json", "list of json"])
def test_tools_their_calls_and_results_stand_where_the_template_wants_them(render, template, form):
    forms = {"column": [TOOL], "json": json.dumps([TOOL]), "list of json": [TOOL_JSON]}
    row = {"options": {"tools": [TOOL]}} if form == "job" else {"options": {"tools": "t"}, "t": forms[form]}
    assert render(template, [ASKED, CALLED, TOLD, TOLD], **row) == WITH_TOOLS[template]


def test_a_conversation_as_json_text_reads_the_same(render):
    messages = json.dumps([ASKED, CALLED, TOLD, TOLD])
    assert render("QWEN3", messages, options={"tools": [TOOL]}) == WITH_TOOLS["QWEN3"]


@pytest.mark.parametrize("none", [None, [], "[]"])
def test_a_row_without_tools_has_the_template_for_those_without(render, none):
    assert render("HERMES", [ASKED, SAID, ASKED], options={"tools": "t"}, t=none) == PLAIN["HERMES"]


def test_a_turn_that_calls_tools_is_closed(render):
    assert render("QWEN3", [ASKED, CALLED]).endswith("</tool_call><|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("template", ["SMOLLM2", "GEMMA2", "GEMMA3"])
def test_calls_that_the_template_would_leave_out_are_an_error_row(render, template):
    with pytest.raises(RequestError, match="^chat template leaves tool_calls out, and a message has some$"):
        render(template, [ASKED, CALLED, TOLD])


NOT_THINKING = PLAIN["QWEN3"] + "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("options", "row", "text"),
    [
        ({"template_args": {"enable_thinking": False}}, {}, NOT_THINKING),
        ({"row_args": {"enable_thinking": "t"}}, {"t": False}, NOT_THINKING),
        ({"row_args": {"enable_thinking": "t"}}, {"t": None}, PLAIN["QWEN3"]),
        ({"row_args": "t"}, {"t": {"enable_thinking": False}}, NOT_THINKING),
        ({"row_args": "t"}, {"t": '{"enable_thinking": false}'}, NOT_THINKING),
        ({"row_args": "t"}, {"t": None}, PLAIN["QWEN3"]),
        ({"row_args": "t", "template_args": {"enable_thinking": False}}, {"t": {"x": 1}}, NOT_THINKING),
        (
            {"row_args": "t", "template_args": {"enable_thinking": False}},
            {"t": {"enable_thinking": True}},
            PLAIN["QWEN3"],
        ),
    ],
)
def test_variables_are_the_jobs_or_a_rows_own(render, options, row, text):
    assert render("QWEN3", [ASKED, SAID, ASKED], options=options, **row) == text


def test_a_prefill_goes_behind_the_thoughts_that_the_template_closes(render):
    options = {"prefill": "{{ begun }}", "template_args": {"enable_thinking": False}}
    assert render("QWEN3", [ASKED, SAID, ASKED], options=options, begun="It") == NOT_THINKING + "It"


@pytest.mark.parametrize("template", PLAIN)
def test_the_prompt_of_the_next_turn_is_that_of_the_whole_conversation(renderer, template):
    talk, whole = renderer(template, turns=["{{ next }}"]), renderer(template)
    first = talk.prompt({"m": [ASKED], "next": " 1+2? "}, 9)
    second = talk.next_prompt(first, "It is 3.", 9)
    assert first.ids == whole.prompt({"m": [ASKED]}, 9).ids
    assert second.ids == whole.prompt({"m": [ASKED, SAID, ASKED]}, 9).ids
    assert second.content.turns == ()


def test_what_an_answer_went_on_with_is_part_of_it_in_the_next_turn(renderer):
    begun = {"role": "assistant", "content": "It"}
    talk = renderer("QWEN3", turns=[" 1+2? "], prefill=" is")
    second = talk.next_prompt(talk.prompt({"m": [ASKED, begun]}, 9), " 3.", 9)
    whole = renderer("QWEN3", prefill=" is").prompt({"m": [ASKED, SAID, ASKED]}, 9)
    assert (second.ids, second.prefill) == (whole.ids, " is")


def test_earlier_thoughts_are_left_out_by_qwen3(render):
    thought = SAID | {"content": "<think>\nhm\n</think>\n\nIt is 3."}
    assert render("QWEN3", [ASKED, thought, ASKED]) == PLAIN["QWEN3"]


def test_documents_reach_the_template(render, monkeypatch):
    template = (
        "{% for d in documents or [] %}[{{ d.title }}: {{ d.text }}]{% endfor %}{{ messages[0].content }}"
    )
    monkeypatch.setattr(chat_templates, "GEMMA2", template)
    document = {"title": "T", "text": "x"}
    for options, row in (({"documents": [document]}, {}), ({"documents": "d"}, {"d": [document]})):
        assert render("GEMMA2", [ASKED], options=options, **row) == "[T: x] 1+2? "


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tools": [TOOL]}, "input.prompt.tools: the chat template has no variable tools"),
        ({"documents": "d"}, "input.prompt.documents: the chat template has no variable documents"),
        (
            {"template_args": {"enable_thinkng": True}},
            "input.prompt.template_args: .* no variable enable_thinkng",
        ),
        (
            {"row_args": {"thinking": "t"}},
            "input.prompt.row_args: the chat template has no variable thinking",
        ),
    ],
)
def test_variables_that_the_template_does_not_have_are_refused(render, options, reason):
    with pytest.raises(ConfigError, match=reason):
        render("SMOLLM2", [ASKED], options=options)


@pytest.mark.parametrize(
    ("options", "row", "reason"),
    [
        ({"tools": "t"}, {"t": "add"}, "input.prompt.tools column t is text, but no JSON"),
        (
            {"tools": "t"},
            {"t": '"add"'},
            "input.prompt.tools column t must be a list of objects, got '\"add\"'",
        ),
        ({"tools": "t"}, {"t": [5]}, r"input.prompt.tools column t must be a list of objects, got \[5\]"),
        (
            {"row_args": "t"},
            {"t": [1]},
            r"input.prompt.row_args column t must be an object of variables, got \[1\]",
        ),
        (
            {"row_args": "t"},
            {"t": {"messages": 1}},
            "input.prompt.row_args column t: messages cannot be a row's own",
        ),
        (
            {"row_args": {"enable_thinking": "t"}},
            {"t": datetime.date(2024, 1, 2)},
            "input.prompt.row_args column t is date; variables are text",
        ),
        (
            {"prefill": "{{ b }}"},
            {"b": None},
            "input.prompt.prefill fails: TemplateRuntimeError: it prints a null",
        ),
    ],
)
def test_what_a_row_says_wrong_is_named(render, options, row, reason):
    with pytest.raises(RequestError, match=reason):
        render("QWEN3", [ASKED], options=options, **row)
