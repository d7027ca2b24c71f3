"""Hive partitions: the columns that a path says, as `lang=de/part-0.parquet` does."""

from urllib.parse import unquote

NULL = "__HIVE_DEFAULT_PARTITION__"  # what Hive, Spark and pyarrow write for null


def path_columns(url: str) -> dict[str, str | None]:
    """Columns by name, in the order of the path; values are text."""
    pairs = [folder.partition("=") for folder in url.split("/")[:-1]]
    return {
        unquote(name): None if value == NULL else unquote(value)
        for name, mark, value in pairs
        if name and mark
    }
