"""Documents on the page: which ones, where tokens lie, what was kept, what is said of each."""

import base64
from dataclasses import replace

import numpy as np
import pytest
import synthetic_rows as made

from agilepruner.report.dashboard import document_pages, documents, page
from agilepruner.report.dashboard.documents import Look, Picture, Said, sample
from agilepruner.report.dashboard.grid import Marks, marks_of
from agilepruner.report.lines import build_tables
from agilepruner.report.statistics import analyse
from agilepruner.report.table import make_report
from agilepruner.runner.attention import Attention, quantised, read_attention
from agilepruner.runner.journal import Entry, Journal, Lines
from agilepruner.runner.kept import boxes_of

BITS = base64.b64encode(np.packbits([1, 0, 0, 1]).tobytes()).decode()


class Made:
    """A reader of made-up documents: two by two tokens of which two are kept."""

    def __init__(self, bytes_each=100, absent=()):
        self.bytes_each, self.absent = bytes_each, absent

    def looks(self, row, wanted):
        for document in wanted:
            if document not in self.absent:
                data = f"{document // 2}".encode().ljust(self.bytes_each)
                yield (
                    document,
                    Look([(document, f"What is {document}?", ["a"])], Picture(data, (8, 8))),
                )

    def attention(self, row, image):
        return "AAAA/w=="

    def said(self, row, wanted):
        kept = None if row.strategy == "vanilla" else {"bits": BITS, "phases": "01"}
        entry = Entry(0, "yes", visual=2, grid=[2, 2], kept=kept, complexity={"erank_input": 3.5})
        return {d: Said(replace(entry, doc=d), 2.5e9) for d in wanted}


def drawn(rows, reader, wanted=30, room=10**7):
    (table,) = build_tables(rows)
    marks = marks_of(table)
    found = documents.Drawn()
    chosen = sample(marks, table.lines.index(table.vanilla), wanted)
    spent = documents.draw(0, table, marks, chosen, reader, found, room)
    return table, found, spent


def test_every_lines_flips_come_first_and_a_small_benchmark_shows_all_of_its():
    rng = np.random.default_rng(0)
    small = Marks("small", "S", list(range(30)), [""] * 30, [0, 1, 2], rng.random((3, 30)))
    large = Marks("large", "L", list(range(5000)), [""] * 5000, [0, 1, 2], rng.random((3, 5000)))
    chosen = sample([small, large], 0, 300)
    assert len(chosen) == len(set(chosen)) == 300
    right = small.right
    flips = set(np.flatnonzero((right != right[0]).any(axis=0)).tolist())
    assert flips <= {unit for b, unit in chosen if b == 0}
    of_large = [unit for b, unit in chosen if b == 1]
    for own in large.right[1:]:  # both ways, of each line
        for way in (large.right[0] & ~own, ~large.right[0] & own):
            assert way[of_large].sum() >= 30
    assert sample([small, large], 0, 300) == chosen
    assert len(sample([small], 0, 300)) == 30
    assert len(sample([small], None, 10)) == 10


def test_an_item_says_what_was_kept_by_which_phase_and_what_was_answered():
    rows = made.rows(("agilepruner",), (64,), ("gqa",), phases={"attention": 0.5, "distance": 0.5})
    table, found, _ = drawn(rows, Made(absent={3}), wanted=40)
    assert len(found.items) == 40
    flips = sum(a != b for a, b in zip(rows[0].scores, rows[1].scores))
    vanilla = table.lines.index(table.vanilla)
    said = documents.flips_drawn(0, marks_of(table), vanilla, found.items)
    assert said == f"Documents that any line flips: GQA all {flips}."
    said = documents.flips_drawn(0, marks_of(table), vanilla, [])
    assert said.endswith(f"GQA 0 of {flips}.")
    assert len(found.images) == 20  # two documents of an image share it
    item = next(one for one in found.items if one["document"] == 4)
    assert item["asked"] == [["What is 4?", ["a"]]]
    assert (item["erank"], item["grid"], item["attention"]) == (3.5, [2, 2], "AAAA/w==")
    assert "kept" not in item["lines"][0]  # vanilla keeps all
    line = item["lines"][1]
    assert (line["kept"], line["phases"], line["flops"]) == (BITS, "01", "2.5 GFLOPs")
    assert found.phases[line["names"]] == ["attention", "distance"]
    assert line["score"] == rows[1].scores[4]
    blank = next(one for one in found.items if one["document"] == 3)
    assert (blank["asked"], blank["image"]) == ([], -1)
    assert found.missing == 1
    assert table.lines[1].strategy == "agilepruner"


def test_a_page_keeps_within_its_room():
    rows = made.rows(("divprune",), (64,), ("gqa", "pope"))
    _, found, spent = drawn(rows, Made(bytes_each=3000), wanted=80, room=50_000)
    assert 0 < spent <= 50_000
    assert 5 < len(found.items) < 80
    assert {item["benchmark"] for item in found.items} == {"gqa", "pope"}


def test_all_documents_are_written_a_page_at_a_time(monkeypatch):
    monkeypatch.setattr("agilepruner.report.dashboard.ON_A_PAGE", 25)
    tables = build_tables(made.rows(("divprune",), (64,), ("gqa", "chair")))
    compared = [analyse(table) for table in tables]
    pages = list(document_pages(tables, compared, "T", Made()))
    assert [(said["benchmark"], said["first"], said["last"]) for said, _ in pages] == [
        *(("gqa", 0, 24), ("gqa", 25, 39), ("chair", 0, 24), ("chair", 25, 39)),
    ]
    home = page(tables, compared, "T", {}, reader=Made(), wanted=0, folder=[s for s, _ in pages])
    assert '"documents":null' in home
    assert '"file":"gqa-0-25.html"' in home


def test_the_folder_holds_the_pages_of_this_report_and_no_others(tmp_path):
    rows = made.rows(("divprune",), (64,), ("gqa",))
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "pope-0-0.html").write_text("of an earlier report")
    make_report(rows, "T", reader=Made(), documents="all").write(tmp_path)
    assert [path.name for path in (tmp_path / "documents").iterdir()] == ["gqa-0-0.html"]
    assert '"file":"documents/gqa-0-0.html"' in (tmp_path / "dashboard.html").read_text()


def test_merged_tokens_and_stages_are_drawn_by_what_became_of_them():
    drawn_ = documents.Drawn()
    row = made.row("divprune", 2, "gqa")
    stages = [
        base64.b64encode(np.packbits(b).tobytes()).decode() for b in ([1, 0, 1, 1], [1, 0, 0, 0])
    ]
    entry = Entry(0, "a", grid=[2, 2], kept={"stages": stages})
    found = documents._selection(row, entry, drawn_)
    assert (found["phases"], found["stages"]) == ("2011", 2)
    assert drawn_.phases[found["names"]] == [
        "dropped by stage 1",
        "dropped by stage 2",
        "kept to the end",
    ]
    assert documents._selection(row, Entry(0, "a", grid=[2, 2], kept={"bits": "!"}), drawn_) == {}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, [(0, 0, 1, 1)]),
        ({"view": [-0.1, 0, 1.1, 1]}, [(-0.1, 0, 1.1, 1)]),
        ({"mosaic": [1, 2]}, [(0, 0, 1, 1), (0, 0, 0.5, 1), (0.5, 0, 1, 1)]),
        (
            {"mosaic": [2, 1], "view": [-0.5, 0, 1.5, 1], "overview": 2},
            [(-0.5, 0, 1.5, 0.5), (-0.5, 0.5, 1.5, 1), (0, 0, 1, 1)],
        ),
    ],
    ids=["whole", "padded", "overview first", "padded tiles, overview last"],
)
def test_tiles_lie_where_the_model_cut_them(entry, expected):
    assert boxes_of(Entry(0, "a", **entry)) == expected


def test_attention_is_left_once_per_image_and_survives_a_torn_line(tmp_path):
    levels = quantised(np.array([[0.0, 0.01, 0.04]]))
    assert list(base64.b64decode(levels)) == [0, 128, 255]
    assert quantised(np.zeros((1, 3))) == quantised(np.array([[np.nan, 1.0]])) == ""
    first = Attention(tmp_path, "gqa-0", writer=0)
    assert first.wanted(["a", "b"]) == {"a", "b"}
    first.add({"a": levels})
    assert first.wanted(["a", "b"]) == {"b"}
    with open(first.path, "ab") as file:
        file.write(b'{"image":"torn"')
    second = Attention(tmp_path, "gqa-0", writer=0)
    assert second.wanted(["a", "b"]) == {"b"}
    second.add({"b": levels})
    assert read_attention(tmp_path / "attention", "gqa-0") == {"a": levels, "b": levels}
    assert read_attention(tmp_path / "attention", "gqa-1") == {}


def test_some_lines_are_read_as_the_whole_journal_would_be(tmp_path):
    for writer, entries in enumerate(
        (
            [Entry(1, error="torn"), Entry(1, "one"), Entry(11, "eleven"), Entry(2, "two")],
            [Entry(7, "seven"), Entry(1, "again"), Entry(2, error="late"), Entry(5, error="five")],
        )
    ):
        journal = Journal(tmp_path, "cell", writer)
        journal.begin({"identity": {}})
        journal.append(entries)
        journal.close()
    with open(tmp_path / "journal.1.jsonl", "ab") as file:
        file.write(b'{"doc":3,"answer":"to')
    lines, whole = Lines(tmp_path, "cell"), Journal(tmp_path, "cell").refresh()
    assert lines.header["cell"] == "cell"
    assert lines.entries(range(20)) == whole
    assert {d: e.answer for d, e in lines.entries([1, 2, 3]).items()} == {1: "one", 2: "two"}
    other = Lines(tmp_path, "another")
    assert (other.header, other.entries([1])) == (None, {})
