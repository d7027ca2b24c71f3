"""Chat templates that behave as the documented ones of model families do, each written anew and short.

They keep what makes those differ: default system prompts, trimmed text, roles that are refused, where tools,
their calls and their results stand, thoughts that are left out, and two templates for one tokenizer.
"""

SMOLLM2 = """\
{% if messages[0].role != 'system' %}
<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
{% endif %}
{% for m in messages %}
{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""

QWEN3 = """\
{% macro system() %}{{ messages[0].content if messages[0].role == 'system' else '' }}{% endmacro %}
{% if tools %}
<|im_start|>system
{{ system() + '\\n\\n' if system() else '' }}# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{% for tool in tools %}
{{ tool | tojson }}
{% endfor %}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> \
XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% elif system() %}
<|im_start|>system
{{ system() }}<|im_end|>
{% endif %}
{% set last = namespace(user=0) %}
{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}
{% for m in messages %}
{% if m.role == 'user' %}
<|im_start|>user
{{ m.content }}<|im_end|>
{% elif m.role == 'assistant' %}
{% set said = m.content if m.content is string else '' %}
<|im_start|>assistant
{{ said.split('</think>')[-1].lstrip('\\n') if loop.index0 < last.user else said }}
{%- for call in m.tool_calls or [] %}
{% set f = call.function or call %}
{{ '\\n' if said or not loop.first else '' }}<tool_call>
{"name": "{{ f.name }}", "arguments": {{ f.arguments if f.arguments is string else f.arguments | tojson }}}
</tool_call>
{%- endfor %}
<|im_end|>
{% elif m.role == 'tool' %}
{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}

<tool_response>
{{ m.content }}
</tool_response>
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>
{% endif %}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{{ '<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and not enable_thinking else '' }}
{%- endif %}
"""

LLAMA31 = """\
{{ bos_token }}<|start_header_id|>system<|end_header_id|>

{{ 'Environment: ipython\\n' if tools else '' -}}
Cutting Knowledge Date: December 2023
Today Date: {{ date_string or '26 Jul 2024' }}

{{ messages[0].content | trim if messages[0].role == 'system' else '' }}<|eot_id|>
{%- for m in messages if m.role != 'system' %}
{% if m.tool_calls %}
{% if m.tool_calls | length != 1 %}{{ raise_exception('only single tool-calls') }}{% endif %}
{% set f = m.tool_calls[0].function %}
<|start_header_id|>assistant<|end_header_id|>

{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}<|eot_id|>
{%- elif m.role == 'tool' %}
<|start_header_id|>ipython<|end_header_id|>

{{ m.content | tojson }}<|eot_id|>
{%- else %}
<|start_header_id|>{{ m.role }}<|end_header_id|>

{% if loop.first and tools %}
Given the following functions, please respond with a JSON for a function call that answers the given prompt.

{% for tool in tools %}{{ tool | tojson(indent=4) }}

{% endfor %}
{% endif %}
{{ m.content | trim }}<|eot_id|>
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}
"""

MISTRAL = """\
{{ bos_token }}
{%- set last = namespace(user=0) %}
{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}
{% for m in messages %}
{% set is_last = loop.index0 == last.user %}
{% if m.role == 'user' %}
{% if tools and is_last %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
[INST] {{ messages[0].content + '\\n\\n' if messages[0].role == 'system' and is_last else '' }}
{{- m.content }}[/INST]
{%- elif m.tool_calls %}
[TOOL_CALLS] [
{%- for call in m.tool_calls %}
{% if (call.id or '') | length != 9 %}{{ raise_exception('Tool call IDs have length 9!') }}{% endif %}
{{ ', ' if not loop.first else '' -}}
{% set f = call.function %}
{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}, "id": "{{ call.id }}"}
{%- endfor %}
]{{ eos_token }}
{%- elif m.role == 'tool' %}
[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]
{%- elif m.role == 'assistant' %}
{{ ' ' + m.content }}{{ eos_token }}
{%- endif %}
{% endfor %}
"""

GEMMA2 = """\
{{ bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for m in messages %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content | trim }}<end_of_turn>
{% endfor %}
{% if add_generation_prompt %}
<start_of_turn>model
{% endif %}
"""

GEMMA3 = """\
{{ bos_token }}
{%- set first = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}
{% for m in messages if m.role != 'system' %}
<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ first if loop.first else '' }}
{%- if m.content is string %}{{ m.content | trim }}
{%- else %}{% for part in m.content if part.type == 'text' %}{{ part.text | trim }}{% endfor %}{% endif -%}
<end_of_turn>
{% endfor %}
{% if add_generation_prompt %}
<start_of_turn>model
{% endif %}
"""

HERMES = {
    "default": """\
{% for m in messages %}
{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
""",
    "tool_use": """\
<|im_start|>system
You are a function calling AI model. Function signatures are within <tools> </tools> XML tags:\
 <tools>{% for tool in tools %}{{ ' ' }}{{ tool | tojson }}{% endfor %} </tools><|im_end|>
{% for m in messages %}
<|im_start|>{{ m.role }}
{% if m.role == 'tool' %}
<tool_response>
{{ m.content }}
</tool_response>
{%- else %}
{{ m.content or '' }}
{%- for call in m.tool_calls or [] %}
<tool_call>
{{ (call.function or call) | tojson }}
</tool_call>
{%- endfor %}
{% endif %}
<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
""",
}
