"""Appending a run's rows to a Delta table, once: the table's log says which runs it has."""

from typing import Any

import pyarrow as pa

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.generate.compact.partition import check_columns
from pipelines.generate.compact.source import Source
from pipelines.generate.config.output import OutputConfig
from pipelines.storage.config import StorageConfig
from pipelines.storage.files import absolute


def append_to_delta(source: Source, config: OutputConfig, storage: StorageConfig) -> bool:
    """Append a run's rows to the table that the config names, in one commit.

    The commit carries a transaction of the run's version; a table that has it gets nothing more, and of two
    that append at once one is refused by Delta's own check.

    Returns:
        Whether rows were appended; False: the table had them.
    Raises:
        ConfigError: deltalake is not installed, or no such columns.
        OrthrusError: the table refuses the rows.
    """
    try:
        import deltalake
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise ConfigError("output.compact.delta needs the package deltalake: pip install deltalake") from None
    options = config.compact
    assert options.delta is not None
    url, keys = absolute(options.delta), _storage_options(storage)
    check_columns(source.schema, options.partition_by)
    transaction = deltalake.Transaction(app_id=f"orthrus-{source.version}", version=1)
    schema, parts = _plain(source.schema), list(options.partition_by) or None
    try:
        table = deltalake.DeltaTable.create(
            url, schema, mode="ignore", partition_by=parts, storage_options=keys
        )  # of one that exists nothing is changed
        if table.transaction_version(transaction.app_id) is not None:
            return False
        batches = (batch for rows in source.tables() for batch in rows.cast(schema).to_batches())
        deltalake.write_deltalake(
            table,  # as it was looked at: the same transaction by another since is a conflict
            pa.RecordBatchReader.from_batches(schema, batches),
            mode="append",
            partition_by=parts,
            commit_properties=deltalake.CommitProperties(app_transactions=[transaction]),
        )
    except (DeltaError, pa.ArrowException, OSError) as error:
        raise OrthrusError(f"output.compact.delta: {url}: {' '.join(str(error).split())}") from None
    return True


def _plain(schema: pa.Schema) -> pa.Schema:
    """The schema without dictionaries, which Delta has not."""
    return pa.schema(
        [one.with_type(one.type.value_type) if pa.types.is_dictionary(one.type) else one for one in schema]
    )


def _storage_options(storage: StorageConfig) -> dict[str, str]:
    """The section `storage` in the words of Delta's own client of S3."""
    given: dict[str, Any] = {
        "AWS_ENDPOINT_URL": storage.endpoint_url,
        "AWS_REGION": storage.region,
        "AWS_ACCESS_KEY_ID": storage.key,
        "AWS_SECRET_ACCESS_KEY": storage.secret,
        "AWS_SESSION_TOKEN": storage.token,
    }
    options = {
        name: value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        for name, value in given.items()
        if value is not None
    }
    if (storage.endpoint_url or "").startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    return options
