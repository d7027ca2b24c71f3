"""A config as a tree of dicts: out of yaml, and with single values put into it."""

from typing import Any

import yaml

from orthrus_core.errors import ConfigError


class _OneKeyLoader(yaml.SafeLoader):
    """Refuses a key that a section has twice: yaml itself takes the last one and forgets the others."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in first:
                fault = f"key {key.value} is there already in line {first[key.value]}, and again"
                raise yaml.MarkedYAMLError(problem=fault, problem_mark=key.start_mark)
            first[key.value] = key.start_mark.line + 1
        return node


def parse_yaml(text: str) -> Any:
    """A yaml text as plain values.

    Raises:
        YAMLError: it is none, or a section has a key twice.
    """
    return yaml.load(text, _OneKeyLoader)


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in a tree of dicts, in place."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set takes key.key=value, got {override.partition('=')[0]!r}")
    for key in keys[:-1]:
        if tree.get(key) is None:
            tree[key] = {}
        tree = tree[key]
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {name}: {key} is a value, not a section")
    try:
        tree[keys[-1]] = parse_yaml(text)
    except yaml.YAMLError as error:
        got = "" if keys[0] == "storage" else f" ({yaml_fault(error)}), got {text!r}"
        raise ConfigError(f"--set {name}: value is not yaml{got}") from None


def yaml_fault(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the line itself: it may hold a password."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"{getattr(error, 'problem', None) or 'cannot be read'} in line {mark.line + 1}"
