"""Word problems of two or three sentences, answered in full sentences."""

from random import Random

from pipelines.demo.tasks.task import Maker, Parts, worded
from pipelines.demo.tasks.words import ITEMS, JOBS, NAMES, TOWNS


def buy_more(rng: Random) -> Parts:
    """Start plus more of the same item."""
    name, (_, items) = rng.choice(NAMES), rng.choice(ITEMS)
    a, b = rng.randint(12, 75), rng.randint(3, 19)
    prompt = worded(
        rng,
        f"{name} has {a} {items} and buys {b} more. How many {items} does {name} have now?",
        f"{name} owns {a} {items}. A friend brings {b} more {items}. How many are there in all?",
        f"There are {a} {items} in a shop. {name} puts {b} more {items} on the shelf. Find the total.",
        f"How many {items} does {name} have after getting {b} {items} on top of {a} {items}?",
    )
    working = (
        f"There are {a} {items} at the start, and {b} more {items} are added. "
        f"Add both numbers: {a} + {b} = {a + b}. In the end there are {a + b} {items}. "
        f"Check: {a + b} - {b} = {a}."
    )
    return prompt, working, f"{a + b} {items}"


def give_away(rng: Random) -> Parts:
    """Start minus some of the same item."""
    name, (_, items) = rng.choice(NAMES), rng.choice(ITEMS)
    a, b = rng.randint(25, 95), rng.randint(3, 19)
    prompt = worded(
        rng,
        f"{name} has {a} {items} and gives away {b}. How many {items} are left?",
        f"{name} had {a} {items} but lost {b} of them. How many {items} does {name} still have?",
        f"A shop has {a} {items}. {name} buys {b} of the {items}. How many stay in the shop?",
        f"From {a} {items}, {name} sells {b}. What is left?",
    )
    working = (
        f"There are {a} {items} at the start, and {b} {items} are taken away. "
        f"Subtract: {a} - {b} = {a - b}. In the end there are {a - b} {items}. Check: {a - b} + {b} = {a}."
    )
    return prompt, working, f"{a - b} {items}"


def shopping(rng: Random) -> Parts:
    """Price of several equal items."""
    name, (item, items) = rng.choice(NAMES), rng.choice(ITEMS)
    count, price = rng.randint(2, 9), rng.randint(2, 12)
    prompt = worded(
        rng,
        f"{name} buys {count} {items}. Each {item} costs {price} dollars. How much does {name} pay?",
        f"One {item} costs {price} dollars. What do {count} {items} cost for {name}?",
        f"{name} needs {count} {items} at {price} dollars each. Find the total price.",
        f"What does {name} pay for {count} {items} if each {item} costs {price} dollars?",
    )
    working = (
        f"{name} buys {count} {items}, and each {item} costs {price} dollars. "
        f"Multiply the number by the price: {count} x {price} = {count * price}. "
        f"{name} pays {count * price} dollars for all {count} {items}."
    )
    return prompt, working, f"{count * price} dollars"


def change(rng: Random) -> Parts:
    """Money back from a payment."""
    name, (item, _) = rng.choice(NAMES), rng.choice(ITEMS)
    paid = rng.choice((20, 30, 40, 50))
    cost = rng.randint(3, paid - 3)
    prompt = worded(
        rng,
        f"{name} buys one {item} for {cost} dollars and pays with {paid} dollars. How much change is due?",
        f"One {item} costs {cost} dollars. {name} hands over {paid} dollars. What change does {name} get?",
        f"{name} has {paid} dollars and spends {cost} dollars on one {item}. How much money is left?",
        (
            f"How many dollars does {name} get back from {paid} dollars after buying one {item} "
            f"for {cost} dollars?"
        ),
    )
    working = (
        f"{name} has {paid} dollars, and the {item} costs {cost} dollars. "
        f"Subtract the cost: {paid} - {cost} = {paid - cost}. "
        f"{name} gets back {paid - cost} dollars. Check: {paid - cost} + {cost} = {paid}."
    )
    return prompt, working, f"{paid - cost} dollars"


def two_prices(rng: Random) -> Parts:
    """Total of two kinds of items at two prices."""
    name = rng.choice(NAMES)
    (_, items), (_, others) = rng.sample(ITEMS, 2)
    n, m, p, q = rng.randint(2, 5), rng.randint(2, 5), rng.randint(2, 9), rng.randint(2, 9)
    prompt = worded(
        rng,
        (
            f"{name} buys {n} {items} at {p} dollars each and {m} {others} at {q} dollars each. "
            f"Find the total."
        ),
        f"What does {name} pay for {n} {items} at {p} dollars each and {m} {others} at {q} dollars each?",
        (
            f"{name} orders {n} {items} for {p} dollars each and {m} {others} for {q} dollars "
            f"each. How much is it?"
        ),
    )
    working = (
        f"The {n} {items} cost {n} x {p} = {n * p} dollars. "
        f"The {m} {others} cost {m} x {q} = {m * q} dollars. "
        f"Together {name} pays {n * p} + {m * q} = {n * p + m * q} dollars."
    )
    return prompt, working, f"{n * p + m * q} dollars"


def travel(rng: Random) -> Parts:
    """Distance from speed and time."""
    name, (start, goal) = rng.choice(NAMES), rng.sample(TOWNS, 2)
    speed, hours = rng.randint(3, 9) * 10, rng.randint(2, 9)
    prompt = worded(
        rng,
        f"{name} drives from {start} to {goal} at {speed} km per hour for {hours} hours. How far is it?",
        (
            f"A train from {start} to {goal} takes {hours} hours at {speed} km per hour. "
            f"How long is the route?"
        ),
        (
            f"{name} leaves {start}, travels {hours} hours at {speed} km per hour and reaches "
            f"{goal}. How far is it?"
        ),
        f"How far is {goal} from {start} if {name} needs {hours} hours at {speed} km per hour?",
    )
    working = (
        f"The trip from {start} to {goal} takes {hours} hours at {speed} km per hour. "
        f"Multiply speed by time: {speed} x {hours} = {speed * hours}. The distance is {speed * hours} km."
    )
    return prompt, working, f"{speed * hours} km"


def route(rng: Random) -> Parts:
    """Distance over a town in between."""
    name, (start, middle, goal) = rng.choice(NAMES), rng.sample(TOWNS, 3)
    a, b = rng.randint(3, 9) * 10, rng.randint(11, 49)
    prompt = worded(
        rng,
        (
            f"It is {a} km from {start} to {middle} and {b} km from {middle} to {goal}. "
            f"How long is the whole route?"
        ),
        f"{name} drives {a} km from {start} to {middle} and {b} km on to {goal}. Find the distance.",
        f"{name} travels from {start} to {middle} ({a} km) and then to {goal} ({b} km). How far is that?",
    )
    working = (
        f"From {start} to {middle} it is {a} km, and from {middle} to {goal} it is {b} km. "
        f"Add both parts: {a} + {b} = {a + b}. The whole route is {a + b} km long. Check: "
        f"{a + b} - {b} = {a}."
    )
    return prompt, working, f"{a + b} km"


def share(rng: Random) -> Parts:
    """Equal parts without remainder."""
    name, (_, items) = rng.choice(NAMES), rng.choice(ITEMS)
    people, each = rng.randint(2, 9), rng.randint(2, 10)
    total = people * each
    prompt = worded(
        rng,
        f"{name} shares {total} {items} equally among {people} friends. How many does each friend get?",
        f"{total} {items} are packed into {people} equal bags by {name}. How many {items} are in each bag?",
        (
            f"{people} children split {total} {items} from {name} evenly. "
            f"How many {items} does each child get?"
        ),
        f"If {name} divides {total} {items} by {people} people, how many {items} are there for each one?",
    )
    working = (
        f"There are {total} {items} to be divided into {people} equal parts. "
        f"Divide: {total} / {people} = {each}, because {people} x {each} = {total}. "
        f"Each part has {each} {items}."
    )
    return prompt, working, f"{each} {items}"


def later_age(rng: Random) -> Parts:
    """Age some years from now."""
    name, job = rng.choice(NAMES), rng.choice(JOBS)
    age, years = rng.randint(18, 79), rng.randint(2, 15)
    prompt = worded(
        rng,
        f"{name} is a {job} and {age} years old. How old will {name} be in {years} years?",
        f"The {job} {name} is {age} today. What age will {name} have {years} years from now?",
        f"{years} years from now, how old is {name}, a {job} who is {age} today?",
    ).replace("a artist", "an artist")
    working = (
        f"Today {name} is {age} years old, and {years} years will pass. "
        f"Add the years: {age} + {years} = {age + years}. {name} will be {age + years} years old. "
        f"Check: {age + years} - {years} = {age}."
    )
    return prompt, working, f"{age + years} years"


def age_gap(rng: Random) -> Parts:
    """Difference between two ages."""
    old, young = rng.sample(NAMES, 2)
    gap, age = rng.randint(2, 19), rng.randint(11, 60)
    high = age + gap
    prompt = worded(
        rng,
        f"{old} is {high} years old and {young} is {age}. How much older is {old}?",
        f"{young} is {age} and {old} is {high}. What is the difference in age?",
        f"How many years lie between {old}, aged {high}, and {young}, aged {age}?",
    )
    working = (
        f"{old} is {high} years old, and {young} is {age} years old. "
        f"The difference is {high} - {age} = {gap}. {old} is {gap} years older than {young}. "
        f"Check: {age} + {gap} = {high}."
    )
    return prompt, working, f"{gap} years"


def pages_left(rng: Random) -> Parts:
    """Pages left after some days of reading."""
    name, per_day, days = rng.choice(NAMES), rng.randint(2, 9), rng.randint(2, 7)
    total = rng.randint(7, 9) * 10
    done = per_day * days
    prompt = worded(
        rng,
        (
            f"{name} has a book of {total} pages and reads {per_day} pages a day. "
            f"How many are left after {days} days?"
        ),
        (
            f"A book has {total} pages. {name} reads {per_day} pages a day for {days} days. "
            f"How many pages are left?"
        ),
        (
            f"After {days} days with {per_day} pages a day, "
            f"how much of a book of {total} pages is left for {name}?"
        ),
    )
    working = (
        f"In {days} days {name} reads {per_day} x {days} = {done} pages. The book has {total} pages. "
        f"Subtract: {total} - {done} = {total - done}. There are {total - done} pages left."
    )
    return prompt, working, f"{total - done} pages"


STORIES: tuple[Maker, ...] = (
    buy_more, give_away, shopping, change, two_prices, travel, route, share, later_age, age_gap, pages_left,
)  # fmt: skip
