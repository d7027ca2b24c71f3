"""Check overlays before a cluster sees them: `python -m infra.validate infra/kuberay/overlays/gpu-spot ...`.

Without arguments, all overlays and schedules of the project. `--crds DIRECTORY` takes the CRDs of your own
operator (`kubectl get crd rayjobs.ray.io -o yaml > DIRECTORY/rayjobs.yaml`) instead of the project's copy.
Exit codes: 0 no fault, 1 faults, each in a line on stderr. Placeholders and choices that are still open are
warned of there.
"""

import argparse
import sys
from pathlib import Path

from infra.validate.check import faults
from infra.validate.kustomize import render
from infra.validate.reminders import reminders
from infra.validate.schemas import HERE, Schemas

KUBERAY = Path(__file__).parents[1] / "kuberay"


def main(arguments: list[str] | None = None) -> int:
    """Check; returns the exit code."""
    parser = argparse.ArgumentParser(description="Check rendered overlays against schemas and rules.")
    parser.add_argument("directories", nargs="*", type=Path, help="with a kustomization.yaml each")
    parser.add_argument("--crds", type=Path, default=HERE, help="directory with KubeRay's CRDs")
    options = parser.parse_args(arguments)
    schemas = Schemas(options.crds)
    count = 0
    for directory in options.directories or overlays():
        things = render(directory)
        found = faults(things, schemas)
        count += len(found)
        print(f"{directory}: {len(things)} objects, {len(found)} faults")
        for fault in found:
            print(f"  {fault}", file=sys.stderr)
        for reminder in reminders(things):
            print(f"  warning: {reminder}", file=sys.stderr)
    return int(count > 0)


def overlays() -> list[Path]:
    """What a user would apply."""
    return sorted(
        path.parent
        for part in ("overlays", "schedules")
        for path in (KUBERAY / part).glob("*/kustomization.yaml")
    )


if __name__ == "__main__":
    sys.exit(main())
