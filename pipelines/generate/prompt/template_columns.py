"""Which columns a prompt template reads."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import meta, nodes

from orthrus_core.errors import ConfigError
from pipelines.generate.prompt.template_process import HarmlessCompiler, new_environment

ROW = "row"  # the name of all columns together, where there is no column of that name


@dataclass(frozen=True)
class TemplateColumns:
    """Names in a template.

    Attributes:
        required: they must be columns.
        optional: a column each where the input has one; else Jinja's own (range, dict), or ROW.
        keys: columns that it takes from ROW by name.
        reads_all: it uses ROW in another way, so it may read any column.
        option: of `input.prompt`, that holds the template.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    keys: tuple[str, ...]
    reads_all: bool
    option: str = "template"

    def among(self, available: Sequence[str]) -> list[str]:
        """The columns that the template reads from an input with these.

        Raises:
            ConfigError: one that it takes from ROW is none of them.
        """
        names = [*self.required, *(name for name in self.optional if name in available)]
        if ROW in self.optional and ROW not in available:
            if missing := [name for name in self.keys if name not in available]:
                raise ConfigError(
                    f"input.prompt.{self.option}: no column {', '.join(missing)}; there are "
                    f"{', '.join(available)}"
                )
            names += available if self.reads_all else self.keys
        return [*dict.fromkeys(names)]


class _NameFinder(HarmlessCompiler, meta.TrackingCodeGenerator):
    """Finds free names, as Jinja's find_undeclared_variables does."""


def template_columns(template: str, option: str = "template") -> TemplateColumns:
    """Names of the columns that a Jinja template uses.

    Raises:
        ConfigError: the template does not parse.
    """
    environment = new_environment()
    names = _NameFinder(environment)
    names.optimizer = None  # it would evaluate all constants, here where nothing limits that
    try:
        environment.from_string(template)
        tree = environment.parse(template)
        names.visit(tree)
    except Exception as error:  # of Jinja, or of Python, which compiles what Jinja makes of it
        fault = " ".join(str(error).split())
        raise ConfigError(f"input.prompt.{option} does not parse: {fault}") from None
    required = names.undeclared_identifiers  # without Jinja's own
    used = [node.name for node in tree.find_all(nodes.Name)]
    optional = (environment.globals.keys() & used) | (required & {ROW})
    keys = [key for node in tree.find_all(nodes.Expr) if (key := _key_of(node)) is not None]
    return TemplateColumns(
        tuple(sorted(required - {ROW})),
        tuple(sorted(optional)),
        tuple(dict.fromkeys(keys)),
        used.count(ROW) > len(keys),
        option,
    )


def _key_of(node: nodes.Expr) -> str | None:
    """The column in `row["column"]` and `row.column`; None: the node is no such thing."""
    if not isinstance(node, nodes.Getitem | nodes.Getattr):
        return None
    if not isinstance(node.node, nodes.Name) or node.node.name != ROW:
        return None
    if isinstance(node, nodes.Getattr):
        return None if hasattr(dict, node.attr) else node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str) else None
