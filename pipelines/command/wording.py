"""Numbers and times in sentences."""


def count_of(number: int, noun: str) -> str:
    """A number with its noun: 1 file, 2,000 files."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def show_duration(seconds: float) -> str:
    """Seconds as 45s, 12m30s or 3h05m."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest}s"
    hours, left = divmod(minutes, 60)
    return f"{hours}h{left:02}m" if hours else f"{minutes}m{rest:02}s"
