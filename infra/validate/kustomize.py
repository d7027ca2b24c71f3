"""Render an overlay: by kubectl where there is one, else by the few features of kustomize that infra/ uses.

The second is for checks on machines without kubectl, not for deploying; a test holds it against kubectl.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

Tree = dict[str, Any]
KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "images", "configMapGenerator"}
KNOWN |= {"patches", "replacements"}


def render(directory: Path) -> list[Tree]:
    """The objects that `kubectl apply -k DIRECTORY` would send.

    Raises:
        ValueError: a kustomization that cannot be rendered.
    """
    return by_kubectl(directory) if shutil.which("kubectl") else build(directory)


def by_kubectl(directory: Path) -> list[Tree]:
    """As kubectl renders it."""
    done = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(done.stderr.strip())
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


def build(directory: Path, below: list[Tree] | None = None) -> list[Tree]:
    """As kustomize would, of the features in KNOWN.

    Args:
        below: of a component, the objects so far, which it changes.
    """
    plan = yaml.load((directory / "kustomization.yaml").read_text(), yaml.CSafeLoader)
    if unknown := plan.keys() - KNOWN:
        raise ValueError(f"{directory}: this renderer does not know {', '.join(sorted(unknown))}")
    things = below if below is not None else []
    for name in plan.get("resources", []):
        things += _resource(directory / name)
    for name in plan.get("components", []):
        things = build(directory / name, things)
    things += [_config_map(directory, entry) for entry in plan.get("configMapGenerator", [])]
    for patch in plan.get("patches", []):
        text = patch.get("patch") or (directory / patch["path"]).read_text()
        for thing in _selected(things, patch["target"]):
            _patch(thing, yaml.load(text, yaml.CSafeLoader))
    for thing in things:
        if "namespace" in plan:
            _put_namespace(thing, plan["namespace"])
        _set_images(thing, {image["name"]: image for image in plan.get("images", [])})
    for replacement in plan.get("replacements", []):
        _replace(things, replacement)
    return things


def _resource(path: Path) -> list[Tree]:
    if path.is_dir():
        return build(path)
    # what a yaml anchor shares becomes a copy of its own
    return [_unshared(thing) for thing in yaml.load_all(path.read_text(), yaml.CSafeLoader) if thing]


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _unshared(item) for name, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _config_map(directory: Path, entry: Tree) -> Tree:
    options = entry.get("options") or {}
    if not options.get("disableNameSuffixHash"):
        raise ValueError(f"{directory}: configMapGenerator {entry['name']} must have disableNameSuffixHash")
    metadata: Tree = {"name": entry["name"]}
    if "labels" in options:
        metadata["labels"] = dict(options["labels"])
    data = {Path(name).name: (directory / name).read_text() for name in entry["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _selected(things: list[Tree], target: Tree) -> list[Tree]:
    return [
        thing
        for thing in things
        if thing["kind"] == target["kind"]
        and ("name" not in target or re.fullmatch(target["name"], thing["metadata"]["name"]))
    ]


def _patch(thing: Tree, patch: Any) -> None:
    if isinstance(patch, dict):
        name = thing["metadata"]["name"]
        _merge(thing, patch)
        thing["metadata"]["name"] = name
        return
    for operation in patch:
        _operate(thing, operation)


def _merge(under: Tree, over: Tree) -> None:
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(name), dict):
            _merge(under[name], value)
        else:
            under[name] = _unshared(value)


def _operate(thing: Tree, operation: Tree) -> None:
    """One operation of JSON Patch."""
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    place: Any = thing
    for part in way:
        place = place[int(part)] if isinstance(place, list) else place[part]
    key: Any = int(last) if isinstance(place, list) and last != "-" else last
    if operation["op"] == "remove":
        del place[key]
    elif operation["op"] in ("add", "replace"):
        if operation["op"] == "replace":
            place[key]  # noqa: B018  a replaced value has to be there
        if isinstance(place, list) and operation["op"] == "add":
            place.insert(len(place) if key == "-" else key, _unshared(operation["value"]))
        else:
            place[key] = _unshared(operation["value"])
    else:
        raise ValueError(f"this renderer does not know the operation {operation['op']}")


def _put_namespace(thing: Tree, namespace: str) -> None:
    thing["metadata"]["name" if thing["kind"] == "Namespace" else "namespace"] = namespace
    for subject in thing.get("subjects", []):
        subject["namespace"] = namespace


def _set_images(value: Any, images: dict[str, Tree]) -> None:
    if isinstance(value, list):
        for item in value:
            _set_images(item, images)
        return
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        if name in ("containers", "initContainers") and isinstance(item, list):
            for container in item:
                image = images.get(container.get("image", ""))
                if image is not None:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
        _set_images(item, images)


def _replace(things: list[Tree], replacement: Tree) -> None:
    source = replacement["source"]
    [found] = _selected(things, source)
    value: Any = found
    for part in source["fieldPath"].split("."):
        value = value[part]
    for target in replacement["targets"]:
        for thing in _selected(things, target["select"]):
            for path in target["fieldPaths"]:
                *way, last = path.split(".")
                place = thing
                for part in way:
                    place = place.setdefault(part, {})
                place[last] = _unshared(value)
