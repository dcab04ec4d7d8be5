"""``agilepruner show``: a document, its answers and maps of what was kept, in a terminal."""

import io

import pytest
from plans import executed, planned

from agilepruner.commands import show
from agilepruner.errors import UserError
from agilepruner.report.terminal import Shown, document_text, kept_map
from agilepruner.runner.journal import Entry
from agilepruner.runner.kept import Kept


def test_a_map_draws_two_rows_of_patches_to_a_line():
    kept = Kept([0, 4, 5, 8], [], [], [])
    assert kept_map(kept, (3, 3)) == ["▀▄▄", "··▀"]


def test_a_map_of_pruning_inside_the_model_is_of_its_last_stage():
    kept = Kept(list(range(9)), [], [], [[0, 1, 8], [8]])
    assert kept_map(kept, (3, 3)) == ["···", "··▀"]


def test_a_map_is_of_one_tile():
    assert kept_map(Kept([1, 4, 7], [], [], []), (2, 2), tile=1) == ["▀▄"]


def test_lines_stand_beside_each_other_where_the_terminal_is_wide():
    entry = Entry(0, "yes", grid=[2, 2], offered=4)
    lines = [Shown(name, entry, Kept([0], [], [], []), 1.0) for name in ("one", "two")]
    wide = document_text("POPE", {"Is it?": ["yes"]}, lines, 80).splitlines()
    narrow = document_text("POPE", {"Is it?": ["yes"]}, lines, 20).splitlines()
    assert any("one" in line and "two" in line for line in wide)
    assert not any("one" in line and "two" in line for line in narrow)
    assert "  reference: yes" in wide


def test_stages_say_how_many_tokens_each_keeps():
    shown = Shown(
        "one", Entry(0, "yes", grid=[2, 2], offered=4), Kept([0, 1, 2], [], [], [[0, 1], [1]]), 1.0
    )
    said = document_text("POPE", {}, [shown], 80).splitlines()
    assert "stages keep 2, 1 (the" in said
    assert "·▀" in said


def test_a_map_that_a_terminal_cannot_hold_is_named_and_not_broken():
    shown = Shown("one", Entry(0, "yes", grid=[1, 60], offered=60), Kept([0], [], [], []), 1.0)
    said = document_text("POPE", {}, [shown], 40)
    assert "its map takes 60 characters" in said
    assert max(map(len, said.splitlines())) <= 40


@pytest.fixture(scope="module")
def finished(tmp_path_factory, demo):
    directory = tmp_path_factory.mktemp("show")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agilepruner.runner.run.load_model", lambda _config: demo)
        executed(
            planned(
                "strategy=[fastervlm]", "benchmark=[mme]", "budget=[16]", "limit=1",
                f"results={directory}", "name=one",
            )
        )  # fmt: skip
    return directory


def test_every_document_of_a_pair_can_be_shown(finished, capsys):
    """MME scores two questions as one: both have an answer of their own."""
    for doc in ("0", "1"):
        assert show.run(["one", "benchmark=mme", f"doc={doc}", f"results={finished}"]) == 0
        said = capsys.readouterr().out
        assert "FasterVLM @ 16" in said
        assert "reference: " in said
        assert sum(line.count("█") + line.count("▀") for line in said.splitlines()) > 16


def test_a_terminal_without_blocks_gets_plain_characters(finished, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    show.run(["one", "benchmark=mme", "doc=0", f"results={finished}"])
    stream.flush()
    said = stream.buffer.getvalue().decode()
    assert "####" in said
    assert "# both kept" in said


def test_answers_to_data_that_is_gone_are_shown_without_questions(finished, monkeypatch, capsys):
    monkeypatch.setattr("agilepruner.documents.OnDisk.looks", lambda *_: iter(()))
    show.run(["one", "benchmark=mme", "doc=1", f"results={finished}"])
    said = capsys.readouterr().out
    assert "not on this machine" in said
    assert "FasterVLM @ 16" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["one", "doc=0", "benchmark=mne"], "Did you mean 'mme'?"),
        (["one", "doc=x"], "give the number of a document"),
        (["one"], "give the number of a document"),
        (["one", "doc=70000"], "is not among"),
        (["one", "doc=0", "strategy=fastvlm"], "Did you mean 'fastervlm'?"),
        (["one", "doc=0", "budget=17"], "Unknown budget '17'"),
        (["two", "doc=0"], "Unknown run 'two'"),
    ],
)
def test_what_is_not_there_is_one_sentence(finished, words, said):
    with pytest.raises(UserError, match=said):
        show.run([*words, f"results={finished}"])
