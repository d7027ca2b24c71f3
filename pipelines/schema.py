"""Every option of every job and every output column as Markdown: `python -m pipelines.schema --help`.

The text is made from the pydantic models and from the list of columns, so that it cannot tell another story.
"""

import argparse
import json
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

REPAIR = "python -m pipelines.schema {topic} > docs/{topic}.md"
SIGNS = {annotated_types.Ge: ">=", annotated_types.Gt: ">", annotated_types.Le: "<=", annotated_types.Lt: "<"}
ENTRY = "NAME"  # stands for a key that the user chooses

Rows = list[tuple[str, ...]]


def main(arguments: list[str] | None = None) -> int:
    """Print what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.schema", description=__doc__)
    parser.add_argument("topic", nargs="?", choices=("config", "columns"), default="config")
    parser.add_argument("--job", choices=sorted(job_models()), help="config of one job; all without it")
    options = parser.parse_args(arguments)
    text = columns_page() if options.topic == "columns" else config_page(options.job)
    sys.stdout.write(text)
    return 0


def job_models() -> dict[str, list[type[BaseModel]]]:
    """The config models of each job; the train job has one for each kind."""
    from pipelines.evaluate.config import EvaluateConfig
    from pipelines.generate.config.job import GenerateConfig
    from pipelines.plan import PlanOptions
    from pipelines.train.config import BackboneTrainConfig, HeadTrainConfig

    return {
        "generate": [GenerateConfig],
        "train": [BackboneTrainConfig, HeadTrainConfig],
        "evaluate": [EvaluateConfig],
        "plan": [PlanOptions],
    }


def config_page(job: str | None = None) -> str:
    """Options of a job, or of all, one table for each section of its yaml file."""
    models = job_models()
    names = [job] if job else list(models)
    parts = [
        "# Options\n\n"
        f"Made by `{REPAIR.format(topic='config')}`; do not edit.\n\n"
        "A yaml file has these sections; `--set section.key=value` goes before the file, the file before the "
        "default. Unknown keys are refused. `required` stands where there is no default."
    ]
    for name in names:
        for model in models[name]:
            kind = model.model_fields.get("kind")
            suffix = f", kind: {_type_text(kind.annotation)}" if kind and len(models[name]) > 1 else ""
            parts.append(
                f"## {name}{suffix}\n\n{_first_line(model)} Command: `jobs/{name}.py --config FILE`."
            )
            parts += [
                _section_text(name, path, one, note) for path, one, note in sections(model) if _options(one)
            ]
    return "\n\n".join(parts) + "\n"


def columns_page() -> str:
    """Columns of the generate job's output files."""
    from pipelines.read.columns import IDENTITY, OPTIONAL, RESULT

    head = ("column", "type", "meaning")

    def table(columns: Any) -> str:
        return _table(head, [(f"`{c.name}`", str(c.type), c.meaning) for c in columns])

    return (
        f"# Output columns\n\nMade by `{REPAIR.format(topic='columns')}`; do not edit.\n\n"
        "Files of the generate job have, in this order: which row it is, the carried input columns "
        "(`input.carry`) with their own types, what became of it, and columns on request.\n\n"
        f"## Which row\n\n{table(IDENTITY)}\n\n## What became of it\n\n{table(RESULT)}\n\n"
        f"## On request\n\n{table(OPTIONAL)}\n"
    )


def sections(model: type[BaseModel], path: str = "", note: str = "") -> Iterator[tuple[str, Any, str]]:
    """A config and the sections in it, depth first: dotted path, model, what its key stands for."""
    yield path, model, note
    for name, field in model.model_fields.items():
        for suffix, inner in _inner_models(field.annotation):
            below = f"{path}.{name}{suffix}".lstrip(".")
            yield from sections(inner, below, field.description or "")


def _section_text(job: str, path: str, model: type[BaseModel], note: str) -> str:
    title = f"### {job}: `{path}`" if path else f"### {job}: top level"
    text = " ".join(part for part in (_sentence(note), _first_line(model)) if part) if path else ""
    table = _table(("key", "type", "default", "bounds", "what it does"), _options(model))
    return "\n\n".join(part for part in (title, text, table) if part)


def _options(model: type[BaseModel]) -> Rows:
    """A line for each key that is no section of its own."""
    return [
        (f"`{name}`", _type_text(field.annotation), _default(field), _bounds(field), _what(field))
        for name, field in model.model_fields.items()
        if not any(True for _ in _inner_models(field.annotation))
    ]


def _inner_models(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Config models in a type, with what their keys are called: ("", M), or (".NAME", M) of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
        return
    origin, inner = get_origin(annotation), get_args(annotation)
    prefix = f".{ENTRY}" if origin in (dict, Mapping) else "[]" if origin in (tuple, list) else ""
    for one in inner:
        for suffix, model in _inner_models(one):
            yield prefix + suffix, model


def _type_text(annotation: Any) -> str:
    """A type in words: `int or null`, `list of text`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(inner[0])
    if origin is Literal:
        return " or ".join(f"`{_value(one)}`" for one in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_text(one) for one in inner))
    if origin in (tuple, list):
        return "list of " + " or ".join(
            dict.fromkeys(_type_text(one) for one in inner if one is not Ellipsis)
        )
    if origin in (dict, Mapping):
        return f"mapping to {_type_text(inner[1])}"
    words = {str: "text", bool: "bool", type(None): "null", Path: "path", Any: "anything"}
    return str(words.get(annotation) or getattr(annotation, "__name__", annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "required" if value is PydanticUndefined else f"`{_value(value)}`"


def _value(value: Any) -> str:
    """A value as it stands in yaml, which takes json."""
    if value is None:
        return "null"
    plain = to_jsonable_python(value)
    return plain if isinstance(plain, str) and plain else json.dumps(plain, ensure_ascii=False)


def _bounds(field: FieldInfo) -> str:
    return ", ".join(dict.fromkeys(_bound_texts([*field.metadata, *_metadata(field.annotation)])))


def _bound_texts(metadata: list[Any]) -> Iterator[str]:
    for one in metadata:
        for kind, sign in SIGNS.items():
            if isinstance(one, kind):
                yield f"{sign} {getattr(one, kind.__name__.lower())}"
        if isinstance(one, annotated_types.MinLen):
            yield f"at least {one.min_length}"
        if isinstance(one, annotated_types.MaxLen):
            yield f"at most {one.max_length}"
        if isinstance(one, FieldInfo):
            yield from _bound_texts(one.metadata)


def _metadata(annotation: Any) -> list[Any]:
    """Bounds on the elements of a list or union."""
    found = list(getattr(annotation, "__metadata__", ()))
    for one in get_args(annotation):
        found += _metadata(one)
    return found


def _what(field: FieldInfo) -> str:
    return _sentence(field.description or "")


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if not text or text.endswith(".") else text + "."


def _first_line(model: type[BaseModel]) -> str:
    return _sentence((model.__doc__ or "").strip().split("\n\n")[0])


def _table(head: tuple[str, ...], rows: Rows) -> str:
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines])


if __name__ == "__main__":
    sys.exit(main())
