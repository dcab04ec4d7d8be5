"""A first look at vanilla: is it where the published number is, before the long run is paid for?"""

from collections.abc import Iterable
from math import sqrt

import numpy as np

from agilepruner.report.estimates import DOUBT, jackknife
from agilepruner.report.lines import VANILLA, build_tables
from agilepruner.report.published import reference, shared_columns, tolerances
from agilepruner.report.statistics import left_out
from agilepruner.runner.rows import Row

FAR = 3.0  # standard errors of the few images, beside the tolerance of the whole benchmark


def is_published(model: str) -> bool:
    """Whether there are numbers to hold a model config against."""
    return reference(model) is not None


def far_from_published(rows: Iterable[Row]) -> list[str]:
    """Sentences on the vanilla rows that are far from their published numbers.

    Far is more than the benchmark's tolerance and ``FAR`` standard errors (jackknife over images)
    of the documents answered. Sums over subtasks, of which a few images show only some, other
    splits and synthetic suites are not looked at.
    """
    said = []
    for table in build_tables([row for row in rows if row.strategy == VANILLA]):
        against = reference(table.model)
        if against is None or table.synthetic or table.vanilla is None:
            continue
        for shared in shared_columns(table, against):
            column = shared.column
            cell = against.cell(VANILLA, against.full, shared.benchmark, shared.metric)
            limit = tolerances().get((shared.benchmark, shared.metric))
            row = next(iter(table.vanilla.rows.get(shared.benchmark, [])), None)
            if cell is None or limit is None or row is None:
                continue
            if shared.split or column.aggregate.strata == "sum":
                continue
            members = np.unique(np.asarray(row.clusters), return_inverse=True)[1]
            found = left_out(column, row, members)
            if found is None or len(found.without) < 2:
                continue
            error = sqrt(jackknife(found.without) + DOUBT * (row.scale / found.weight) ** 2)
            if abs(found.whole - cell.value) > limit + FAR * error:
                said.append(
                    f"{column.title} is {found.whole:.{column.digits}f} on the first {row.n} "
                    f"documents (standard error {error:.1f}), published {cell.value:g}"
                )
    return said
