"""All checks of a rendered overlay."""

from typing import Any

from infra.validate.bundle import Bundle
from infra.validate.command_rules import COMMAND_RULES
from infra.validate.job_rules import JOB_RULES
from infra.validate.pod_rules import POD_RULES
from infra.validate.schemas import Schemas


def faults(things: list[dict[str, Any]], schemas: Schemas) -> list[str]:
    """Every fault of the objects: against schemas first, and only if they hold, against the rules."""
    found = [
        f"{thing.get('kind')}/{(thing.get('metadata') or {}).get('name')}: {fault}"
        for thing in things
        for fault in schemas.faults(thing)
    ]
    if found:
        return found
    bundle = Bundle(things)
    rules = (*JOB_RULES, *POD_RULES, *COMMAND_RULES)
    return [fault for rule in rules for fault in rule(bundle)]
