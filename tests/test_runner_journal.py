"""Nothing written is lost, and nothing is believed that is torn, damaged or another cell's."""

import errno
import os

import pytest

from agilepruner.runner.journal import Entry, Journal

CELL = "0123456789abcdef"


def journal(folder, writer=0, cell=CELL):
    return Journal(folder, cell, writer)


def answers(folder, cell=CELL):
    found = journal(folder, cell=cell).refresh()
    return {doc: entry.answer for doc, entry in found.items()}


def test_entries_come_back(tmp_path):
    own = journal(tmp_path)
    own.begin({"identity": {"budget": 64}})
    own.append([Entry(0, "Yes"), Entry(1, "左上")])
    own.append([Entry(2, ""), Entry(3, "lone \ud800 half")])
    assert answers(tmp_path) == {0: "Yes", 1: "左上", 2: "", 3: "lone \ud800 half"}
    read = journal(tmp_path)
    read.refresh()
    assert read.header["identity"] == {"budget": 64}


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_costs_its_document_only(tmp_path, cut):
    journal(tmp_path).append([Entry(0, "Yes"), Entry(1, "No")])
    path = tmp_path / "journal.0.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert answers(tmp_path) == {0: "Yes"}
    journal(tmp_path).append([Entry(1, "No"), Entry(2, "Yes")])  # the torn half is not glued
    assert answers(tmp_path) == {0: "Yes", 1: "No", 2: "Yes"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:10],
        lambda line: line.replace(b"No", b"Yes"),
        lambda line: b'{"doc": 1, "answer": "Yes"}',
        lambda line: b"[]",
        lambda line: b"\x00" * len(line),
        lambda line: b"",
    ],
)
def test_a_damaged_line_costs_its_document_only(tmp_path, damage, caplog):
    journal(tmp_path).append([Entry(0, "Yes"), Entry(1, "No"), Entry(2, "No")])
    path = tmp_path / "journal.0.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = damage(lines[1])
    path.write_bytes(b"\n".join(lines))
    assert answers(tmp_path) == {0: "Yes", 2: "No"}
    assert "1 lines are damaged" in caplog.text
    journal(tmp_path).append([Entry(1, "No")])
    assert answers(tmp_path) == {0: "Yes", 1: "No", 2: "No"}


def test_the_journal_of_another_cell_is_not_believed(tmp_path):
    own = journal(tmp_path / "a")
    own.begin({"identity": {}})
    own.append([Entry(0, "Yes")])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "journal.0.jsonl").write_bytes(own.path.read_bytes())
    other = journal(tmp_path / "b", cell="another")
    assert (other.refresh(), other.header) == ({}, None)


def test_a_failure_is_replaced_by_a_later_answer_and_never_the_other_way(tmp_path):
    own = journal(tmp_path)
    own.append([Entry(0, error="out of memory"), Entry(1, "No")])
    own.append([Entry(0, "Yes"), Entry(1, error="late")])
    read = journal(tmp_path).refresh()
    assert (read[0].answer, read[0].error) == ("Yes", "")
    assert (read[1].answer, read[1].error) == ("No", "")


def test_writers_write_apart_and_see_each_other(tmp_path):
    first, second = journal(tmp_path, 0), journal(tmp_path, 1)
    first.append([Entry(0, "Yes")])
    second.append([Entry(1, "No")])
    assert set(first.refresh()) == set(second.refresh()) == {0, 1}
    second.append([Entry(2, "No")])
    assert set(first.refresh()) == {0, 1, 2}


def test_a_full_disk_leaves_whole_lines_only(tmp_path, monkeypatch):
    own = journal(tmp_path)
    own.append([Entry(0, "Yes")])
    write, calls = os.write, []

    def full(descriptor, data):
        calls.append(len(data))
        if len(calls) == 1:
            return write(descriptor, data[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        own.append([Entry(1, "No")])
    monkeypatch.undo()
    assert own.path.read_bytes().endswith(b"\n")
    assert set(own.entries) == set(answers(tmp_path)) == {0}
