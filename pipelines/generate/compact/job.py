"""The compact job: from a generate job's config to a line that says what was done."""

from rich.filesize import decimal

from pipelines.command.wording import count_of
from pipelines.generate.compact.compact import compact_files, finished, target_url
from pipelines.generate.compact.delta import append_to_delta
from pipelines.generate.compact.partition import check_columns
from pipelines.generate.compact.source import open_source
from pipelines.generate.config.job import GenerateConfig
from pipelines.storage.config import use_storage
from pipelines.storage.files import absolute


def compact_run(config: GenerateConfig, *, dry_run: bool = False) -> str:
    """Do what `output.compact` says with a finished run.

    Args:
        dry_run: check it and write nothing.
    Raises:
        ConfigError: the run is not finished, or the target does not fit it.
        OrthrusError: its files are damaged, or changed meanwhile.
    """
    use_storage(config.storage)
    output = config.output
    source = open_source(absolute(output.path))
    check_columns(source.schema, output.compact.partition_by)
    if output.compact.delta is not None:
        if dry_run:
            return f"dry run: the rows of {source.ledger.url} would be appended to {output.compact.delta}"
        appended = append_to_delta(source, output, config.storage)
        return f"{output.compact.delta} {'got' if appended else 'has'} the rows of {source.ledger.url}"
    url = target_url(output)
    if dry_run and finished(url, source, output) is None:
        return f"dry run: the rows of {source.ledger.url} would be written to {url}"
    manifest = compact_files(source, output)
    return (
        f"{url} has the rows of {source.ledger.url}: {count_of(manifest['rows'], 'row')} in "
        f"{count_of(len(manifest['files']), 'file')}, {decimal(manifest['bytes'])}"
    )
