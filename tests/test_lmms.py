"""lmms-eval leaves the process as it was: settings, seeds, streams and sinks."""

import contextlib
import io
import logging
import random
import subprocess
import sys
import threading
import warnings
from json import loads
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from evals import lmms

PROGRAM = Path(__file__).parent / "process_state.py"
# What lmms-eval is known to change, so that the watching is known to see it.
CHANGED = {
    "environment variables",
    "loguru sinks",
    "PIL",
    "random",
    "torch process group",
    "warning filters",
    "YAML",
}


@pytest.mark.parametrize(("how", "changed"), [("contained", set()), ("uncontained", CHANGED)])
def test_importing_loading_and_scoring_change_nothing(how, changed, tmp_path):
    """In a fresh process, with a `.env` file to be read; the second case proves the first."""
    (tmp_path / ".env").write_text("FROM_DOTENV=1")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), how], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    differences = loads(done.stdout.splitlines()[-1])
    if how == "contained":
        assert differences == {}
    else:
        assert changed <= set(differences)


def test_what_is_changed_inside_is_put_back():
    """Each setting by itself, also where this version of lmms-eval does not touch it."""
    logger = logging.getLogger("httpx")
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, logger.level, list(sys.path)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    hook, filters = sys.excepthook, list(warnings.filters)
    with contextlib.suppress(KeyError), lmms.contained():
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = True, 7
        logger.setLevel(logging.CRITICAL)
        logging.disable(logging.CRITICAL)
        sys.path.append("elsewhere")
        random.seed(2680), np.random.seed(3), torch.manual_seed(4)
        sys.excepthook = print
        warnings.simplefilter("ignore")
        raise KeyError
    after = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, logger.level, list(sys.path)
    assert after == before
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn
    assert (sys.excepthook, list(warnings.filters)) == (hook, filters)
    assert logging.root.manager.disable == 0


def test_a_truncated_picture_is_an_error_and_not_grey(monkeypatch):
    """PIL would fill it, had lmms-eval's setting stayed."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    with lmms.contained():
        ImageFile.LOAD_TRUNCATED_IMAGES = True  # as importing lmms_eval.api.task does
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, "JPEG")
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(whole.getvalue()[:1500])).convert("RGB")


def test_loguru_sinks_survive_and_errors_are_logged(caplog):
    from loguru import logger

    said = []
    number = logger.add(said.append, format="{message}")
    try:
        for _ in range(2):
            with lmms.contained():
                logger.error("from inside")
                logger.remove()
                logger.add(sys.stdout)
        logger.info("from outside")
    finally:
        logger.remove(number)
    assert said == ["from outside\n"]
    assert caplog.messages == ["from inside", "from inside"]


def test_quiet_drops_this_threads_output_and_no_other(capsys):
    def speak():
        print("other thread")

    with lmms.quiet():
        print("this thread")
        print("this thread", file=sys.stderr, flush=True)
        thread = threading.Thread(target=speak)
        thread.start()
        thread.join()
        handler = logging.StreamHandler()  # as libraries make one when they are imported
    handler.emit(logging.makeLogRecord({"msg": "later"}))
    print("afterwards")
    out, err = capsys.readouterr()
    assert (out, err) == ("other thread\nafterwards\n", "later\n")


@pytest.mark.parametrize("state", ["missing", "closed"])
def test_quiet_works_without_streams(state, monkeypatch):
    stream = None if state == "missing" else io.StringIO()
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    with lmms.quiet():
        print("unheard", flush=True)
        sys.stderr.write("unheard")
        assert not sys.stderr.isatty()
    assert sys.stdout is stream
    assert sys.stderr is stream


def test_quiet_may_overlap_between_threads(capsys):
    """The one that entered first leaves first: the real stream is back for good."""
    inside, leave = threading.Event(), threading.Event()

    def other():
        with lmms.quiet():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with lmms.quiet():
        thread.start()
        inside.wait(10)
    leave.set()
    thread.join()
    print("heard")
    assert capsys.readouterr().out == "heard\n"
