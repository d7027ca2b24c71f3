"""What the API server would say of an object, by schemas: of KubeRay's CRDs, Kubernetes, the PodMonitor."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

HERE = Path(__file__).parents[1] / "kuberay" / "schemas"
KUBERNETES = "kubernetes-1.34.json.gz"
META = {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}


class Schemas:
    """Strict validators by (apiVersion, kind): a field that the schema does not name is a fault."""

    def __init__(self, crd_directory: Path = HERE):
        """Read all schemas.

        Args:
            crd_directory: holds CRDs as *.yaml, as KubeRay's release or `kubectl get crd -o yaml` have
                them, or as *.json.gz.
        """
        kubernetes = json.loads(gzip.decompress((HERE / KUBERNETES).read_bytes()))
        definitions = kubernetes["definitions"]
        self._validators: dict[tuple[str, str], jsonschema.Draft7Validator] = {}
        for name, definition in kubernetes["kinds"].items():
            api, _, kind = name.rpartition("/")
            self._add(api, kind, definitions[definition], definitions)
        for crd in _crds(crd_directory):
            if crd.get("kind") == "CustomResourceDefinition":
                self._add_crd(crd, definitions)

    def faults(self, thing: dict[str, Any]) -> list[str]:
        """What is wrong with an object, as `spec.x.y: message`, sorted by place."""
        key = (str(thing.get("apiVersion")), str(thing.get("kind")))
        if key not in self._validators:
            return [f"no schema of {key[0]} {key[1]}"]
        errors = self._validators[key].iter_errors(thing)
        return sorted(f"{'.'.join(map(str, error.absolute_path))}: {error.message:.200}" for error in errors)

    def _add_crd(self, crd: dict[str, Any], definitions: dict[str, Any]) -> None:
        group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
        for version in crd["spec"]["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"] = schema.get("properties", {}) | {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": META,
            }
            self._add(f"{group}/{version['name']}", kind, schema, definitions)

    def _add(self, api: str, kind: str, schema: dict[str, Any], definitions: dict[str, Any]) -> None:
        whole = {**schema, "definitions": definitions}
        self._validators[api, kind] = jsonschema.Draft7Validator(whole)


def _crds(directory: Path) -> Iterator[dict[str, Any]]:
    """CRDs of a directory, and the PodMonitor's of this project."""
    files = sorted([*directory.glob("*.yaml"), *directory.glob("*.json.gz")])
    if not any("rayjobs" in file.name for file in files):
        raise FileNotFoundError(f"{directory} holds no CRD of RayJob (a file like ray.io_rayjobs.yaml)")
    if directory.resolve() != HERE:
        files.append(HERE / "podmonitor.yaml")
    for file in files:
        if file.suffix == ".gz":
            yield json.loads(gzip.decompress(file.read_bytes()))
        else:
            yield from (crd for crd in yaml.load_all(file.read_text(), yaml.CSafeLoader) if crd)


def _strict(schema: Any) -> Any:
    """An OpenAPI v3 schema of a CRD as a JSON schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(value) for name, value in schema.items() if name not in ("properties", "default")}
    if "properties" in schema:
        made["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        if not open_ended:
            made["additionalProperties"] = False
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        made["type"] = [schema["type"], "null"]
    return made
