"""Small JSON and CSV records: write, read, convert, change."""

import json
from random import Random

from pipelines.demo.tasks.task import Maker, Parts, worded
from pipelines.demo.tasks.words import CITIES, COLORS, DAYS, ITEMS, JOBS, NAMES

Record = dict[str, str | int]


def _person(rng: Random) -> Record:
    return {"name": rng.choice(NAMES), "age": rng.randint(18, 79), "city": rng.choice(CITIES),
            "job": rng.choice(JOBS)}  # fmt: skip


def _product(rng: Random) -> Record:
    return {"item": rng.choice(ITEMS)[0], "color": rng.choice(COLORS), "price": rng.randint(11, 99)}


def _trip(rng: Random) -> Record:
    start, goal = rng.sample(CITIES, 2)
    return {"start": start, "goal": goal, "day": rng.choice(DAYS), "seats": rng.randint(11, 60)}


def _record(rng: Random) -> Record:
    return rng.choice((_person, _product, _trip))(rng)


def _facts(record: Record) -> str:
    """Write the fields as `name is Ada, age is 34`."""
    return ", ".join(f"{key} is {value}" for key, value in record.items())


def _sentence(record: Record) -> str:
    """Write a record as one plain English sentence."""
    if "job" in record:
        work = record["job"]
        article = "an" if work == "artist" else "a"
        return (
            f"{record['name']} is {record['age']} years old, lives in {record['city']} "
            f"and works as {article} {work}."
        )
    if "color" in record:
        return f"The {record['item']} has the color {record['color']} and costs {record['price']} dollars."
    return (
        f"The trip from {record['start']} to {record['goal']} is on {record['day']} "
        f"and has {record['seats']} seats."
    )


def _row(record: Record) -> str:
    return ",".join(str(value) for value in record.values())


def facts_to_json(rng: Random) -> Parts:
    """Listed facts to a JSON object."""
    record = _record(rng)
    facts, keys = _facts(record), ", ".join(record)
    prompt = worded(
        rng,
        f"Write a JSON record: {facts}.",
        f"Turn these facts into JSON: {facts}.",
        f"Make JSON from this: {facts}.",
        f"Store the facts as a JSON object. The {facts}.",
    )
    return prompt, f"The record has these fields: {keys}. Here it is as JSON.", json.dumps(record)


def sentence_to_json(rng: Random) -> Parts:
    """One sentence to a JSON object."""
    record = _record(rng)
    sentence, keys = _sentence(record), ", ".join(record)
    prompt = worded(
        rng,
        f"Read the sentence and write JSON with the fields {keys}. {sentence}",
        f"Extract {keys} as JSON: {sentence}",
        f"{sentence} Write this as JSON with {keys}.",
    )
    return prompt, f"The sentence gives these fields: {keys}. Here it is as JSON.", json.dumps(record)


def json_to_csv(rng: Random) -> Parts:
    """JSON object to a CSV row."""
    record = _record(rng)
    text, keys = json.dumps(record), ", ".join(record)
    prompt = worded(
        rng,
        f"Convert to a CSV row: {text}",
        f"Write {text} as one line of CSV.",
        f"Turn this JSON into a CSV row: {text}",
        f"Give me the values of {text} as CSV.",
    )
    working = f"The columns are {keys}. The values in this order are: {_facts(record)}. Here is the CSV row."
    return prompt, working, _row(record)


def csv_to_sentence(rng: Random) -> Parts:
    """CSV header and row to a sentence."""
    record = _record(rng)
    header, row, facts = ",".join(record), _row(record), _facts(record)
    prompt = worded(
        rng,
        f"Write a sentence from this CSV:\n{header}\n{row}",
        f"Turn the CSV row into a sentence.\n{header}\n{row}",
        f"The columns are {header}. Write the row {row} as a sentence.",
        f"Describe this row:\n{header}\n{row}",
    )
    return prompt, f"The row says: {facts}. As a sentence it reads like this.", _sentence(record)


def get_field(rng: Random) -> Parts:
    """One value of a JSON object."""
    record = _record(rng)
    text, key = json.dumps(record), rng.choice(list(record))
    prompt = worded(
        rng,
        f"What is the {key} in {text}?",
        f"Read the field {key} from this JSON: {text}",
        f"Get the value of {key}: {text}",
        f"Here is a record: {text}. Which {key} does it give?",
    )
    working = f"The record says: {_facts(record)}. We need the field {key}, and the {key} is {record[key]}."
    return prompt, working, str(record[key])


def set_field(rng: Random) -> Parts:
    """JSON object with one value changed."""
    record = _record(rng)
    text, key = json.dumps(record), rng.choice(list(record))
    value = _different(rng, record, key)
    prompt = worded(
        rng,
        f"Change the {key} to {value} in {text}",
        f"Set {key} to {value} in this JSON: {text}",
        f"Here is a record: {text}. Update the {key} to {value}.",
        f"In {text}, the {key} should be {value}.",
    )
    working = (
        f"The old {key} is {record[key]}, and the new {key} is {value}. "
        f"All other fields of the record stay the same. Here is the new JSON."
    )
    return prompt, working, json.dumps(record | {key: value})


def _different(rng: Random, record: Record, key: str) -> str | int:
    """Draw a new value for one field that differs from every value in the record."""
    builder = _person if "job" in record else _product if "color" in record else _trip
    while True:
        value = builder(rng)[key]
        if value not in record.values():
            return value


def look_up(rng: Random) -> Parts:
    """Value of one line in a table of three."""
    names, scores = rng.sample(NAMES, 3), rng.sample(range(11, 99), 3)
    table = "\n".join(f"{name}: {points}" for name, points in zip(names, scores, strict=True))
    chosen = rng.randrange(3)
    name, points = names[chosen], scores[chosen]
    prompt = worded(
        rng,
        f"{table}\nHow many points does {name} have?",
        f"Read the table and give the points of {name}.\n{table}",
        f"What is the score of {name}?\n{table}",
        f"{table}\nLook up {name} in this table of points.",
    )
    working = (
        f"The table has lines for {names[0]}, {names[1]} and {names[2]}. We look for the line of {name}. "
        f"It says {name}: {points}. So {name} has {points} points."
    )
    return prompt, working, f"{points} points"


RECORDS: tuple[Maker, ...] = (
    facts_to_json, sentence_to_json, json_to_csv, csv_to_sentence, get_field, set_field, look_up,
)  # fmt: skip
