"""A row's own variables of the chat template: tools, documents, and those that columns are named for."""

from collections.abc import Mapping
from typing import Any

from orthrus_core.errors import RequestError
from pipelines.generate.config.prompt import NO_ROW_ARGS, PromptConfig
from pipelines.generate.prompt.messages import parsed


class TemplateArgs:
    """Reads the variables of rows."""

    def __init__(self, prompt: PromptConfig):
        lists = {"tools": prompt.tools, "documents": prompt.documents}
        self._common = {name: list(value) for name, value in lists.items() if isinstance(value, tuple)}
        self._lists = {name: column for name, column in lists.items() if isinstance(column, str)}
        self._all = prompt.row_args if isinstance(prompt.row_args, str) else None
        self._named = prompt.row_args if isinstance(prompt.row_args, dict) else {}

    def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Variables that a row sets; null is none.

        Raises:
            RequestError: naming the column and what is wrong with its value.
        """
        args = {name: _plain(row[column], column) for name, column in self._named.items()}
        args = {name: value for name, value in args.items() if value is not None}
        if self._all is not None:
            args |= _object(row[self._all], f"input.prompt.row_args column {self._all}")
        args |= self._common
        for name, column in self._lists.items():
            if found := _objects(row[column], f"input.prompt.{name} column {column}"):
                args[name] = found
        return args


def _plain(value: Any, column: str) -> Any:
    if isinstance(value, str | int | float | bool | list | dict | None):
        return value
    raise RequestError(
        f"input.prompt.row_args column {column} is {type(value).__name__}; variables are text, numbers, "
        "true or false, lists and objects"
    )


def _object(value: Any, where: str) -> dict[str, Any]:
    found = {} if value is None else parsed(value, where)
    if not isinstance(found, dict):
        raise RequestError(f"{where} must be an object of variables, got {value!r:.40}")
    if foreign := sorted(NO_ROW_ARGS & found.keys()):
        raise RequestError(f"{where}: {', '.join(foreign)} cannot be a row's own")
    return {name: cell for name, cell in found.items() if cell is not None}


def _objects(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects; it, or each of them, may be JSON text."""
    found = [] if value is None else parsed(value, where)
    found = [parsed(one, where) for one in found] if isinstance(found, list) else None
    if found is None or not all(isinstance(one, dict) for one in found):
        raise RequestError(f"{where} must be a list of objects, got {value!r:.40}")
    return found
