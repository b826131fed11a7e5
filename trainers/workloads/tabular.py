"""Classification or regression on a table: one that ships with scikit-learn, or the customer's CSV files."""

from pathlib import Path
from typing import Any

from torch import nn

from trainers.workloads.bundled import bundled_table
from trainers.workloads.options import workload_options
from trainers.workloads.supervised import Samples, Supervised
from trainers.workloads.tables import encode_features, encode_target, learn_columns, read_tables, split_rows

HELD_OUT_FRACTION = 0.2


class Tabular(Supervised):
    """Options: see `trainers.workloads.options`. A fifth of the rows is held out, or the file `held_out.csv`.

    All workers need one model. Where their data differ (`data: share:…`), `columns` must say the categories, and the
    mean and deviation of a value target: what it says is not taken from the data.
    """

    def __init__(self, options: dict[str, Any], data: Path | None, seed: int) -> None:
        known = workload_options("tabular", options)
        super().__init__(known, data, seed)
        if known["table"] is not None:
            table, apart = bundled_table(known["table"]), None
        elif data is not None:
            table, apart = read_tables(data, known["delimiter"])
        else:
            raise ValueError("tabular needs data (a .csv file or a folder of them) or the option table")
        if apart is None:
            table, apart = split_rows(table, HELD_OUT_FRACTION, seed)
        target = known["target"] or table.header[-1]
        self.columns, self.target, self.task = learn_columns(table, known["columns"], target, known["task"])
        self.unit = self.target.deviation
        train, held = (
            Samples.of(encode_features(part, self.columns), encode_target(part, self.target)) for part in (table, apart)
        )
        self.hold(train, held)

    def model(self) -> nn.Module:
        """[B, features] -> [B, classes], or [B, 1] of values."""
        width: int = self.options["width"]
        layers: list[nn.Module] = []
        into = sum(column.width for column in self.columns)
        for _ in range(self.options["depth"]):
            layers += [nn.Linear(into, width), nn.GELU()]
            into = width
        return nn.Sequential(*layers, nn.Linear(into, self.target.width))
