"""Making the error rows of finished units again; the other rows of their files stay as they are."""

from dataclasses import dataclass

import pyarrow as pa

from pipelines.generate.write.unit_file import UnitRows, read_footer, read_unit_rows
from pipelines.read.arrow_types import bring_all_to
from pipelines.read.columns import PLACE, TableLayout
from pipelines.read.units import unit_file_name
from pipelines.storage.files import join


@dataclass(frozen=True)
class Repair:
    """Where the finished units are; says what to make again, and puts it among the rows that stay."""

    data_url: str
    dropped_url: str
    layout: TableLayout

    def samples(self, shard: int, index: int, num_rows: int) -> dict[int, list[int] | None]:
        """Which completions of a unit to make again.

        Args:
            num_rows: input rows of the unit.
        Returns:
            Row within the unit to the samples that failed; None for all samples, where the prompt failed.
        """
        old = self._read(shard, index, num_rows)
        if old is None:
            return dict.fromkeys(range(num_rows))
        samples: dict[int, list[int]] = {}
        failed: dict[int, list[int]] = {}
        columns = (old.table.column(name).to_pylist() for name in ("sample", "error"))
        for place, sample, error in zip(old.places, *columns, strict=True):
            samples.setdefault(place, []).append(sample)
            if error is not None:
                failed.setdefault(place, []).append(sample)
        return {place: None if len(samples[place]) == 1 else found for place, found in failed.items()}

    def merge(self, made: pa.Table, shard: int, index: int) -> UnitRows:
        """A unit's rows with those that were made again in the place of the old ones.

        Args:
            made: the layout's columns and PLACE.
        """
        schema = self.layout.output
        name = unit_file_name(shard, index)
        old = self._read(shard, index, read_footer(join(self.data_url, name))["counts"]["rows_in"])
        made_places = [int(place) for place in made.column(PLACE).to_pylist()]
        made = bring_all_to(made, schema)
        if old is None:
            return UnitRows(made, tuple(made_places), {})
        both = pa.concat_tables([bring_all_to(old.table, schema), made]).unify_dictionaries()
        keys = zip([*old.places, *made_places], both.column("sample").to_pylist(), strict=True)
        rows = {key: row for row, key in enumerate(keys)}  # the later one of two, which is the new one
        order = sorted(rows)
        table = both.take(pa.array([rows[key] for key in order], pa.int64()))
        return UnitRows(table, tuple(place for place, _ in order), old.facts)

    def _read(self, shard: int, index: int, num_rows: int) -> UnitRows | None:
        rows = read_unit_rows(self.data_url, self.dropped_url, unit_file_name(shard, index), self.layout)
        return rows if rows is not None and len(set(rows.places)) == num_rows else None
