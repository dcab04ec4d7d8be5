"""The first look: few answers far from the published number stop a run, few near it do not."""

import plans
import pytest
import synthetic_rows as made

from agilepruner.errors import UserError
from agilepruner.report.anchor import far_from_published, is_published
from agilepruner.runner.plan import identify
from agilepruner.runner.run import execute

REAL = {"model": "llava_1_5_7b", "suite": "hub", "synthetic": False, "protocol": "paper"}


def vanilla(benchmark, right, n=200, **changes):
    scores = [float(i < right * n) for i in range(n)]
    own = {"scores": scores, "value": 100 * sum(scores) / n, "n": n, **REAL, **changes}
    return made.row("vanilla", 576, benchmark, **own)


@pytest.mark.parametrize(
    ("right", "n", "far"),
    [
        (0.62, 200, False),  # GQA is published as 61.9
        (0.55, 200, False),  # two standard errors
        (0.30, 200, True),
        (0.30, 4, False),  # four documents say nothing
        (0.0, 200, True),
        (0.90, 200, True),
    ],
)
def test_far_is_beyond_what_so_few_documents_can_say(right, n, far):
    said = far_from_published([vanilla("gqa", right, n)])
    assert bool(said) is far
    if far:
        assert f"on the first {n} documents" in said[0]
        assert "published 61.9" in said[0]


def test_what_cannot_be_compared_is_not_looked_at():
    assert far_from_published([vanilla("gqa", 0.0, synthetic=True)]) == []
    assert far_from_published([vanilla("gqa", 0.0, model="demo")]) == []
    assert far_from_published([vanilla("vqav2", 0.0)]) == []  # val, published: test-dev
    assert far_from_published([vanilla("mme", 0.0)]) == []  # a sum over subtasks
    assert is_published("llava_1_5_7b")
    assert not is_published("demo")


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("anchor", ["stop", "warn"])
def test_a_run_stops_after_the_first_images_unless_told_to_go_on(tmp_path, anchor):
    seen = []

    def look(rows):
        seen.extend(rows)
        return ["GQA is 0.0"]

    settings = ["benchmark=[gqa,mme]", "limit=4", "images_per_window=2", "strategy=[fastervlm]"]
    run = identify(plans.planned(f"results={tmp_path}", *settings, f"anchor={anchor}"))
    if anchor == "stop":
        with pytest.raises(
            UserError, match=r"far from its published numbers: GQA is 0.0.*anchor=warn"
        ):
            execute(run, first_look=look)
    else:
        assert {row.status for row in execute(run, first_look=look).rows} == {"done"}
    assert {row.strategy for row in seen} == {"vanilla"}
    assert [row.benchmark for row in seen] == ["gqa", "mme"]
    assert all(0 < row.n <= 4 for row in seen)
    again = execute(run)  # what was answered is kept, and the rest follows
    assert {row.status for row in again.rows} == {"done"}
    assert [row.n for row in again.rows if row.benchmark == "gqa"] == [4, 4]
