"""Ways to find and change things in rendered manifests."""

from pathlib import Path

KUBERAY = Path(__file__).parents[2] / "infra/kuberay"
GENERATE = "RayJob/orthrus-generate"
GONE = object()


def objects(things):
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in things}


def find(things, name):
    kind, _, name = name.partition("/")
    [thing] = [t for t in things if (t["kind"], t["metadata"]["name"]) == (kind, name)]
    return thing


def put(things, name, path, value):
    *way, last = path.split(".")
    place = find(things, name)
    for part in way:
        place = place[int(part) if isinstance(place, list) else part]
    if value is GONE:
        del place[int(last) if isinstance(place, list) else last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
