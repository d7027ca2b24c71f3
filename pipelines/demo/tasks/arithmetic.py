"""Worked arithmetic: every computed number follows from numbers already on the page."""

from random import Random

from pipelines.demo.tasks.task import Maker, Parts
from pipelines.demo.tasks.words import NAMES


def _asked(rng: Random, *wordings: str) -> str:
    """Choose a wording; half of the time somebody by name asks it."""
    wording = rng.choice(wordings)
    if rng.random() < 0.5:
        return wording
    name = rng.choice(NAMES)
    opening = rng.choice((f"{name} asks:", f"A question from {name}:", f"Help {name}:"))
    return f"{opening} {wording}"


def add(rng: Random) -> Parts:
    """Two-digit sum, tens first, then ones."""
    a = rng.randint(11, 78)
    b = rng.randint(11, 89 - a) if a < 70 else rng.randint(11, 20)
    tens, ones = b - b % 10, b % 10
    prompt = _asked(
        rng,
        f"What is {a} + {b}?",
        f"Add {a} and {b}.",
        f"Find the sum of {a} and {b}.",
        f"Please work out {a} + {b}.",
        f"How much is {a} plus {b}?",
    )
    working = (
        f"We add {a} and {b}. First add the tens: {a} + {tens} = {a + tens}. "
        f"Then add the ones: {a + tens} + {ones} = {a + b}. So {a} + {b} = {a + b}. Check: "
        f"{a + b} - {b} = {a}."
    )
    return prompt, working, str(a + b)


def subtract(rng: Random) -> Parts:
    """Two-digit difference, tens first, then ones."""
    a = rng.randint(31, 99)
    b = rng.randint(11, a - 11)
    tens, ones = b - b % 10, b % 10
    prompt = _asked(
        rng,
        f"What is {a} - {b}?",
        f"Subtract {b} from {a}.",
        f"Take {b} away from {a}.",
        f"Please work out {a} - {b}.",
        f"How much is {a} minus {b}?",
    )
    working = (
        f"We take {b} away from {a}. First take away the tens: {a} - {tens} = {a - tens}. "
        f"Then take away the ones: {a - tens} - {ones} = {a - b}. So {a} - {b} = {a - b}. "
        f"Check: {a - b} + {b} = {a}."
    )
    return prompt, working, str(a - b)


def multiply(rng: Random) -> Parts:
    """Product from the table up to 12 x 12."""
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    prompt = _asked(
        rng,
        f"What is {a} x {b}?",
        f"Multiply {a} by {b}.",
        f"Find the product of {a} and {b}.",
        f"How much is {a} times {b}?",
        f"Please work out {a} x {b}.",
    )
    working = (
        f"We multiply {a} by {b}. From the multiplication table we know that {a} x {b} = {a * b}. "
        f"So the product of {a} and {b} is {a * b}, and {a * b} / {b} = {a}."
    )
    return prompt, working, str(a * b)


def multiply_in_parts(rng: Random) -> Parts:
    """Two digits by one digit with both partial products."""
    b = rng.randint(2, 6)
    a = rng.randint(13, 19) if b > 4 else rng.randint(13, 29)
    a += a % 10 == 0
    tens, ones = a - a % 10, a % 10
    prompt = _asked(
        rng,
        f"Work out {a} x {b} in parts.",
        f"Multiply {a} by {b} step by step.",
        f"Show how to find {a} x {b} from tens and ones.",
        f"Split {a} into tens and ones and find {a} x {b}.",
    )
    working = (
        f"Split {a} into {tens} and {ones}. The tens give {tens} x {b} = {tens * b}. "
        f"The ones give {ones} x {b} = {ones * b}. Add both parts: {tens * b} + {ones * b} = {a * b}."
    )
    return prompt, working, str(a * b)


def divide(rng: Random) -> Parts:
    """Exact division, reasoned from the multiplication table."""
    b, quotient = rng.randint(2, 9), rng.randint(2, 10)
    a = b * quotient
    prompt = _asked(
        rng,
        f"What is {a} / {b}?",
        f"Divide {a} by {b}.",
        f"How many times does {b} fit into {a}?",
        f"Please work out {a} / {b}.",
        f"How much is {a} divided by {b}?",
    )
    working = (
        f"We divide {a} by {b}. From the multiplication table we know that {b} x {quotient} = {a}. "
        f"So {b} fits {quotient} times into {a}, and {a} / {b} = {quotient}."
    )
    return prompt, working, str(quotient)


def percent(rng: Random) -> Parts:
    """Whole tens of percent, by way of 10 %."""
    times, part = rng.randint(2, 9), rng.randint(2, 12)
    share, whole = times * 10, part * 10
    prompt = _asked(
        rng,
        f"What is {share} % of {whole}?",
        f"Find {share} percent of {whole}.",
        f"How much is {share} % of {whole}?",
        f"Please work out {share} % of {whole}.",
    )
    working = (
        f"First find 10 % of {whole}: {whole} / 10 = {part}. "
        f"Now {share} % is {times} times as much: {times} x {part} = {times * part}."
    )
    return prompt, working, str(times * part)


def three_sum(rng: Random) -> Parts:
    """Sum of three numbers from left to right."""
    a, b, c = rng.randint(11, 59), rng.randint(2, 19), rng.randint(2, 9)
    prompt = _asked(
        rng,
        f"What is {a} + {b} + {c}?",
        f"Add the numbers {a}, {b} and {c}.",
        f"Find the sum of {a}, {b} and {c}.",
        f"What do {a}, {b} and {c} make together?",
    )
    working = (
        f"Add the numbers {a}, {b} and {c} from left to right. First {a} + {b} = {a + b}. "
        f"Then {a + b} + {c} = {a + b + c}."
    )
    return prompt, working, str(a + b + c)


def compare(rng: Random) -> Parts:
    """Larger or smaller of two numbers with different tens."""
    a = rng.randint(11, 98)
    b = rng.choice([n for n in range(11, 99) if n // 10 != a // 10])
    low, high = min(a, b), max(a, b)
    larger = rng.random() < 0.5
    word = "larger" if larger else "smaller"
    prompt = _asked(
        rng,
        f"Which number is {word}, {a} or {b}?",
        f"Is {a} or {b} the {word} number?",
        f"Compare {a} and {b}. Which one is {word}?",
        f"Name the {word} of the numbers {a} and {b}.",
    )
    working = (
        f"Compare the tens of {a} and {b}: {a} has {a // 10} tens and {b} has {b // 10} tens. "
        f"So {low} < {high}, and the {word} number is {high if larger else low}."
    )
    return prompt, working, str(high if larger else low)


def double(rng: Random) -> Parts:
    """Twice a two-digit number."""
    number = rng.randint(11, 49)
    prompt = _asked(
        rng,
        f"Double the number {number}.",
        f"What is twice {number}?",
        f"What is the double of {number}?",
        f"How much is two times {number}?",
    )
    working = (
        f"To double {number}, add {number} to itself: {number} + {number} = {2 * number}. "
        f"So the double of {number} is {2 * number}, and half of {2 * number} is {number}."
    )
    return prompt, working, str(2 * number)


def next_number(rng: Random) -> Parts:
    """Next number of a series with a constant step."""
    first, gap = rng.randint(1, 40), rng.randint(2, 9)
    numbers = [first + gap * i for i in range(5)]
    shown = ", ".join(map(str, numbers[:4]))
    prompt = _asked(
        rng,
        f"What comes next: {shown}?",
        f"Continue the series {shown}.",
        f"Which number follows in the series {shown}?",
        f"Find the next number: {shown}.",
    )
    working = (
        f"The series is {shown}. Each step adds {numbers[1]} - {numbers[0]} = {gap}. "
        f"The next number is {numbers[3]} + {gap} = {numbers[4]}."
    )
    return prompt, working, str(numbers[4])


ARITHMETIC: tuple[Maker, ...] = (
    add, subtract, multiply, multiply_in_parts, divide, percent, three_sum, compare, double, next_number,
)  # fmt: skip
