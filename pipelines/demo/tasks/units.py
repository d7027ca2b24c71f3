"""Unit conversions and clock times, worked in the same style."""

from random import Random

from pipelines.demo.tasks.task import Maker, Parts, worded
from pipelines.demo.tasks.words import EVENTS, ITEMS, NAMES

# (large unit, small unit, small units in one large unit)
SCALES = (
    ("m", "cm", 100), ("kg", "g", 1000), ("km", "m", 1000), ("cm", "mm", 10), ("l", "ml", 1000),
    ("euros", "cents", 100),
)  # fmt: skip

# (large unit, small unit, factor) where the factor is no power of ten.
COUNTS = (("weeks", "days", 7), ("dozens", "pieces", 12), ("days", "hours", 24), ("years", "months", 12),
          ("feet", "inches", 12))  # fmt: skip


def to_small_unit(rng: Random) -> Parts:
    """Large unit to small unit, factor a power of ten."""
    name, (large, small, factor) = rng.choice(NAMES), rng.choice(SCALES)
    value = rng.randint(2, 99)
    prompt = worded(
        rng,
        f"Convert {value} {large} to {small}.",
        f"How many {small} are {value} {large}?",
        f"{name} notes {value} {large}. What is that in {small}?",
        f"Write {value} {large} in {small} for {name}.",
    )
    working = (
        f"We convert {value} {large} to {small}. There are {factor} {small} for each of the {value} {large}. "
        f"Multiply: {value} x {factor} = {value * factor}. So {value} {large} are {value * factor} {small}."
    )
    return prompt, working, f"{value * factor} {small}"


def to_large_unit(rng: Random) -> Parts:
    """Small unit to large unit, factor a power of ten."""
    name, (large, small, factor) = rng.choice(NAMES), rng.choice(SCALES)
    value = rng.randint(2, 99)
    total = value * factor
    prompt = worded(
        rng,
        f"Convert {total} {small} to {large}.",
        f"How many {large} are {total} {small}?",
        f"{name} notes {total} {small}. What is that in {large}?",
        f"Write {total} {small} in {large} for {name}.",
    )
    working = (
        f"We convert {total} {small} to {large}. It takes {factor} {small} to make one of the {large}. "
        f"Divide: {total} / {factor} = {value}. So {total} {small} are {value} {large}."
    )
    return prompt, working, f"{value} {large}"


def to_counted_unit(rng: Random) -> Parts:
    """Weeks, dozens, days, years or feet to their parts."""
    name, (large, small, factor) = rng.choice(NAMES), rng.choice(COUNTS)
    value = rng.randint(2, 4) if factor == 24 else rng.randint(2, 10)
    prompt = worded(
        rng,
        f"Convert {value} {large} to {small}.",
        f"How many {small} are {value} {large}?",
        f"{name} counts {value} {large}. How many {small} is that?",
        f"Tell {name} how many {small} make {value} {large}.",
    )
    working = (
        f"We convert {value} {large} to {small}. There are {factor} {small} for each of the {value} {large}. "
        f"Multiply: {value} x {factor} = {value * factor}. So {value} {large} are {value * factor} {small}."
    )
    return prompt, working, f"{value * factor} {small}"


def to_minutes(rng: Random) -> Parts:
    """Hours and minutes to minutes."""
    name, event = rng.choice(NAMES), rng.choice(EVENTS)
    hours, minutes = rng.randint(1, 5), rng.randint(1, 11) * 5
    length = f"{hours} h {minutes} min"
    prompt = worded(
        rng,
        f"The {event} lasts {length}. How many minutes is that?",
        f"Write {length} in minutes for {name}.",
        f"How many minutes are {length}?",
        f"{name} plans {length} for the {event}. Give the time in minutes.",
    )
    working = (
        f"Each hour has 60 minutes, so {hours} h are {hours} x 60 = {hours * 60} minutes. "
        f"Then add the other {minutes} minutes: {hours * 60} + {minutes} = {hours * 60 + minutes}."
    )
    return prompt, working, f"{hours * 60 + minutes} minutes"


def end_time(rng: Random) -> Parts:
    """Clock time after some minutes within the same hour."""
    name, event = rng.choice(NAMES), rng.choice(EVENTS)
    hour, minute = rng.randint(10, 21), rng.randint(1, 9) * 5
    length = rng.randint(1, 11 - minute // 5) * 5
    end = minute + length
    prompt = worded(
        rng,
        f"The {event} starts at {hour}:{minute:02d} and lasts {length} minutes. When does it end?",
        f"{name} starts a {event} at {hour}:{minute:02d}. It takes {length} minutes. When is {name} done?",
        f"At {hour}:{minute:02d} {name} goes to the {event} for {length} minutes. When is it over?",
        f"When does a {event} of {length} minutes end if it begins at {hour}:{minute:02d}?",
    ).replace("a exam", "an exam")
    working = (
        f"The {event} begins at {hour}:{minute:02d} and takes {length} minutes. Add the minutes: "
        f"{minute} + {length} = {end}. The hour stays {hour}, so it ends at {hour}:{end}."
    )
    return prompt, working, f"{hour}:{end}"


def weight(rng: Random) -> Parts:
    """Weight of several equal items."""
    name, (item, items) = rng.choice(NAMES), rng.choice(ITEMS)
    count, grams = rng.randint(2, 9), rng.randint(2, 9) * 10
    prompt = worded(
        rng,
        f"One {item} weighs {grams} g. How much do {count} {items} weigh?",
        f"{name} carries {count} {items} of {grams} g each. What is the total weight?",
        f"Find the weight of {count} {items} for {name} if each {item} weighs {grams} g.",
    )
    working = (
        f"Each {item} weighs {grams} g, and there are {count} {items}. "
        f"Multiply: {grams} x {count} = {grams * count}. All {count} {items} weigh {grams * count} g."
    )
    return prompt, working, f"{grams * count} g"


UNITS: tuple[Maker, ...] = (to_small_unit, to_large_unit, to_counted_unit, to_minutes, end_time, weight)
