"""Short instructions on words, lists, days and months."""

from random import Random

from pipelines.demo.tasks.task import Maker, Parts, worded
from pipelines.demo.tasks.words import DAYS, EVENTS, ITEMS, MONTHS, NAMES, OPPOSITES, WORDS


def _count_on(rng: Random, names: tuple[str, ...], unit: str) -> Parts:
    """Count 2 to 5 days or months forward or back, with every stop written out."""
    person, event = rng.choice(NAMES), rng.choice(EVENTS)
    start, count = rng.randrange(len(names)), rng.randint(2, 5)
    later = rng.random() < 0.6
    sign, side, way = (1, "after", "forward") if later else (-1, "before", "back")
    stops = [names[(start + sign * i) % len(names)] for i in range(1, count + 1)]
    prompt = worded(
        rng,
        f"Which {unit} is {count} {unit}s {side} {names[start]}?",
        f"Name the {unit} {count} {unit}s {side} {names[start]}.",
        f"The {event} of {person} takes place {count} {unit}s {side} {names[start]}. Which {unit} is that?",
        f"{person} visits us {count} {unit}s {side} {names[start]}. Which {unit} is that?",
    )
    listed = ", ".join(f"{i} {stop}" for i, stop in enumerate(stops, 1))
    working = (
        f"Start at {names[start]} and count {count} {unit}s {way}: {listed}. "
        f"So {count} {unit}s {side} {names[start]} it is {stops[-1]}."
    )
    return prompt, working, stops[-1]


def day_shift(rng: Random) -> Parts:
    """Day of the week some days before or after another."""
    return _count_on(rng, DAYS, "day")


def month_shift(rng: Random) -> Parts:
    """Month some months before or after another."""
    return _count_on(rng, MONTHS, "month")


def upper_case(rng: Random) -> Parts:
    """Three words in capital letters."""
    words = " ".join(rng.sample(WORDS, 3))
    prompt = worded(
        rng,
        f"Write in capital letters: {words}",
        f"Convert to upper case: {words}",
        f"Make these words upper case: {words}",
        f"Please shout these words: {words}",
    )
    working = (
        f"The words are {words}. In upper case every letter becomes a capital "
        "letter, and the order of the words stays the same."
    )
    return prompt, working, words.upper()


def lower_case(rng: Random) -> Parts:
    """Three words back in small letters."""
    words = " ".join(rng.sample(WORDS, 3))
    shouted = words.upper()
    prompt = worded(
        rng,
        f"Write in small letters: {shouted}",
        f"Convert to lower case: {shouted}",
        f"Make these words lower case: {shouted}",
        f"Please stop shouting: {shouted}",
    )
    working = (
        f"The words are {shouted}. In lower case every letter becomes a small "
        "letter, and the order of the words stays the same."
    )
    return prompt, working, words


def repeat(rng: Random) -> Parts:
    """Two words repeated with commas."""
    words, count = " ".join(rng.sample(WORDS, 2)), rng.randint(2, 5)
    prompt = worded(
        rng,
        f"Repeat {words} {count} times, with commas.",
        f"Write {words} {count} times with commas between.",
        f"Say {words} {count} times, separated by commas.",
    )
    counted = ", ".join(f"{i} {words}" for i in range(1, count + 1))
    return prompt, f"We write {words} {count} times. Count along: {counted}.", ", ".join([words] * count)


def join_words(rng: Random) -> Parts:
    """Words joined with a given mark."""
    words = rng.sample(WORDS, rng.randint(3, 5))
    mark, sign = rng.choice(
        (("commas", ", "), ("dashes", " - "), ("plus signs", " + "), ("semicolons", "; "))
    )
    listed = " ".join(words)
    prompt = worded(
        rng,
        f"Join with {mark}: {listed}",
        f"Put {mark} between these words: {listed}",
        f"Separate by {mark}: {listed}",
        f"Write {listed} as a list with {mark}.",
    )
    working = (
        f"The words are {listed}. We keep the order of the {len(words)} words and put {mark} between them."
    )
    return prompt, working, sign.join(words)


def pick_word(rng: Random) -> Parts:
    """First, second or last word of a list."""
    words = rng.sample(WORDS, rng.randint(3, 5))
    place, word = rng.choice((("first", words[0]), ("last", words[-1]), ("second", words[1])))
    listed = " ".join(words)
    prompt = worded(
        rng,
        f"What is the {place} word of: {listed}",
        f"Give the {place} word: {listed}",
        f"Name the {place} word in {listed}.",
        f"Which word comes {place} here? {listed}",
    )
    listing = ", ".join(f"{i} {each}" for i, each in enumerate(words, 1))
    working = (
        f"Number the words: {listing}. We look for the {place} word of the list. The {place} word is {word}."
    )
    return prompt, working, word


def swap_word(rng: Random) -> Parts:
    """List with one word replaced."""
    first, second, third, new = rng.sample(WORDS, 4)
    old = rng.choice((first, second, third))
    before = f"{first}, {second}, {third}"
    after = ", ".join(new if word == old else word for word in (first, second, third))
    prompt = worded(
        rng,
        f"Replace {old} by {new} in: {before}",
        f"In the list {before}, change {old} to {new}.",
        f"Swap {old} for {new}: {before}",
        f"Write {before} with {new} in place of {old}.",
    )
    working = (
        f"The list is {before}. We take out {old} and put {new} in its place. "
        "The other words of the list stay where they are. Here is the new list."
    )
    return prompt, working, after


def plural(rng: Random) -> Parts:
    """Plural of a noun, regular or not."""
    name, (item, items), count = rng.choice(NAMES), rng.choice(ITEMS), rng.randint(2, 60)
    prompt = worded(
        rng,
        f"What is the plural of {item}? Use it for {count} things of {name}.",
        f"{name} has one {item}. Say the same with {count}.",
        f"Write with {count} in place of one: {name} has one {item}.",
    )
    working = (
        f"The singular is one {item}, and the plural is {items}. "
        f"One {item} becomes {count} {items}, so with the number {count} we use the plural."
    )
    return prompt, working, f"{name} has {count} {items}."


def opposite(rng: Random) -> Parts:
    """Sentence with its adjective turned round."""
    pair, (item, _), name = rng.choice(OPPOSITES), rng.choice(ITEMS), rng.choice(NAMES)
    word, other = pair if rng.random() < 0.5 else pair[::-1]
    sentence, turned = f"The {item} of {name} is {word}.", f"The {item} of {name} is {other}."
    prompt = worded(
        rng,
        f"Say the opposite: {sentence}",
        f"Turn this into its opposite: {sentence}",
        f"Rewrite with the opposite of {word}: {sentence}",
    )
    working = (
        f"The sentence says {word}. The opposite of {word} is {other}, "
        f"so we write {other} in place of {word}. The rest of the sentence stays the same."
    )
    return prompt, working, turned


def greeting(rng: Random) -> Parts:
    """Invitation filled from four facts."""
    host, guest = rng.sample(NAMES, 2)
    event, day, hour = rng.choice(EVENTS), rng.choice(DAYS), rng.randint(10, 20)
    facts = f"from {host} to {guest}, {event} on {day} at {hour}:00"
    prompt = worded(
        rng,
        f"Write a short invitation {facts}.",
        f"Invite by message: {facts}.",
        f"Compose a friendly note {facts}.",
    )
    working = (
        f"The note goes to {guest} and comes from {host}. It is about the {event} on {day} at {hour}:00."
    )
    answer = f"Dear {guest}, please come to the {event} on {day} at {hour}:00. Best wishes, {host}"
    return prompt, working, answer


def email(rng: Random) -> Parts:
    """Address from a name, a number and a place."""
    name, word = rng.choice(NAMES), rng.choice(WORDS)
    number = rng.randint(11, 99)
    prompt = worded(
        rng,
        f"Make an email address for {name} with the number {number} at {word}.org.",
        f"Write the email address of {name}, number {number}, at {word}.org.",
        f"Which address does {name} get at {word}.org with the number {number}?",
    )
    working = (
        f"The name in small letters is {name.lower()}, the number is {number} and the place is {word}.org. "
        "Put the sign @ before the place."
    )
    return prompt, working, f"{name.lower()}{number}@{word}.org"


TEXT: tuple[Maker, ...] = (
    day_shift, month_shift, upper_case, lower_case, repeat, join_words, pick_word, swap_word, plural,
    opposite, greeting, email,
)  # fmt: skip
