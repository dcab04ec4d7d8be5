"""Nothing written is lost, and nothing torn is believed."""

import errno
import os

import pytest

from agilepruner.errors import UserError
from agilepruner.runner.journal import Entry, Journal


def test_entries_come_back(tmp_path):
    journal = Journal(tmp_path)
    journal.append([Entry(0, "Yes"), Entry(1, "左上")])
    journal.append([Entry(2, "")])
    assert {doc: e.answer for doc, e in journal.read().items()} == {0: "Yes", 1: "左上", 2: ""}


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_costs_its_document_only(tmp_path, cut):
    journal = Journal(tmp_path)
    journal.append([Entry(0, "Yes"), Entry(1, "No")])
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[:-cut])
    assert set(journal.read()) == {0}
    journal.append([Entry(1, "No"), Entry(2, "Yes")])  # the torn half is gone, not glued
    assert {doc: e.answer for doc, e in journal.read().items()} == {0: "Yes", 1: "No", 2: "Yes"}


def test_a_damaged_line_in_the_middle_is_an_error_that_says_which(tmp_path):
    journal = Journal(tmp_path)
    journal.append([Entry(0, "Yes"), Entry(1, "No"), Entry(2, "No")])
    lines = journal.path.read_bytes().split(b"\n")
    lines[1] = lines[1][:10]
    journal.path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match="line 2 is damaged"):
        journal.read()


def test_a_failure_is_replaced_by_a_later_answer_and_never_the_other_way(tmp_path):
    journal = Journal(tmp_path)
    journal.append([Entry(0, error="out of memory"), Entry(1, "No")])
    journal.append([Entry(0, "Yes"), Entry(1, error="late")])
    read = journal.read()
    assert (read[0].answer, read[0].error) == ("Yes", "")
    assert (read[1].answer, read[1].error) == ("No", "")


def test_ranks_write_apart_and_are_read_together(tmp_path):
    Journal(tmp_path, 0).append([Entry(0, "Yes")])
    Journal(tmp_path, 1).append([Entry(1, "No")])
    assert set(Journal(tmp_path).read()) == {0, 1}


def test_a_full_disk_leaves_whole_lines_only(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.append([Entry(0, "Yes")])
    write, calls = os.write, []

    def full(descriptor, data):
        calls.append(len(data))
        if len(calls) == 1:
            return write(descriptor, data[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        journal.append([Entry(1, "No")])
    monkeypatch.undo()
    assert journal.path.read_bytes().endswith(b"\n")
    assert set(journal.read()) == {0}
