"""Numbers in sentences."""


def count_of(number: int, noun: str) -> str:
    """A number with its noun: 1 file, 2,000 files."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
