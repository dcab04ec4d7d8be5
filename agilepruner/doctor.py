"""Check the environment and say how to fix what is wrong: ``agilepruner doctor``.

Nothing is downloaded; the network is used only for the sizes of what a named run needs
(``agilepruner doctor table=llava_1_5_7b``). Exit status 1 when something will not work; warnings
are about what only some runs need (a GPU, the hub, CHAIR).
"""

import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from packaging.requirements import Requirement

from agilepruner import torchvision
from agilepruner.errors import UserError
from agilepruner.runner.plan import Run

GIB = 2**30
WEIGHTS_GIB = 13  # LLaVA-1.5-7B in 16 bits
DISK_GIB = 100  # a 7B checkpoint and the scored splits; a named run says exactly


@dataclass(frozen=True)
class Finding:
    """One thing checked.

    Attributes:
        level: ``ok``, ``warn`` (some runs need it) or ``fail`` (nothing works without).
        subject: what was checked. found: what was seen. fix: what to do, empty when ok.
    """

    level: str
    subject: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{self.level:<4}  {self.subject}: {self.found}"
        return f"{line}\n      -> {self.fix}" if self.fix else line


def python() -> Iterator[Finding]:
    """The interpreter."""
    yield Finding("ok", "Python", ".".join(map(str, sys.version_info[:3])))


def packages() -> Iterator[Finding]:
    """Installed versions against what this project asks for."""
    for text in importlib.metadata.requires("agilepruner") or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("fail", wanted.name, "not installed", f"pip install '{text}'")
            continue
        if wanted.specifier.contains(version, prereleases=True):
            yield Finding("ok", wanted.name, version)
        else:
            found = f"{version}, expected {wanted.specifier}"
            yield Finding("fail", wanted.name, found, f"pip install '{text}'")


def torchvision_build() -> Iterator[Finding]:
    """A torchvision that does not fit torch breaks transformers; none at all is fine."""
    found = torchvision.state()
    if found.startswith("broken"):
        fix = "pip uninstall torchvision (it is not needed), or install the build for this torch."
        yield Finding("fail", "torchvision", found, fix)
    else:
        yield Finding("ok", "torchvision", found)


def transformers_api() -> Iterator[Finding]:
    """The argument through which pruned tokens enter is young."""
    import inspect

    torchvision.hide_if_broken()
    from transformers import LlavaModel

    if "mm_encoder_outputs" in inspect.signature(LlavaModel.forward).parameters:
        yield Finding("ok", "transformers API", "mm_encoder_outputs is there")
    else:
        fix = "pip install 'transformers>=5.23,<5.24'"
        yield Finding("fail", "transformers API", "no mm_encoder_outputs in LlavaModel", fix)


def gpu() -> Iterator[Finding]:
    """Which GPU, and whether a 7B model fits."""
    import torch

    if not torch.cuda.is_available():
        fix = "The demo model runs on a CPU; the paper's models need a GPU of 24 GB or more."
        yield Finding("warn", "GPU", "none", fix)
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        seen = (
            f"{torch.cuda.get_device_name(index)}, {free / GIB:.0f} of {total / GIB:.0f} GiB free"
        )
        if free < 1.3 * WEIGHTS_GIB * GIB:
            fix = "A 7B model takes 13 GiB of weights: free memory, or lower batch_size."
            yield Finding("warn", f"GPU {index}", seen, fix)
        else:
            yield Finding("ok", f"GPU {index}", seen)


def disk() -> Iterator[Finding]:
    """Room for checkpoints and benchmarks in the hub's cache."""
    from agilepruner.hub import free_bytes

    free = free_bytes() / GIB
    if free < DISK_GIB:
        fix = (
            f"A checkpoint and the benchmarks take up to {DISK_GIB} GiB (`agilepruner doctor "
            "table=llava_1_5_7b` says how many); HF_HOME moves the cache."
        )
        yield Finding("warn", "disk", f"{free:.0f} GiB free for the hub's cache", fix)
    else:
        yield Finding("ok", "disk", f"{free:.0f} GiB free for the hub's cache")


def hub() -> Iterator[Finding]:
    """Public repositories need no login; gated and private ones do."""
    from huggingface_hub import get_token

    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        fix = "suite=hub works from the cache only; unset HF_HUB_OFFLINE to download."
        yield Finding("warn", "hub", "offline by HF_HUB_OFFLINE", fix)
    elif get_token() is None:
        yield Finding("ok", "hub", "not logged in (public models and data sets need no login)")
    else:
        yield Finding("ok", "hub", "logged in")


def language_data() -> Iterator[Finding]:
    """CHAIR's tokenizer, tagger and WordNet."""
    from evals.chair import missing_resources

    missing = missing_resources()
    if missing:
        fix = f"python -m nltk.downloader {' '.join(missing)} (CHAIR uses inflect without)"
        yield Finding("warn", "NLTK data", f"missing: {', '.join(missing)}", fix)
    else:
        yield Finding("ok", "NLTK data", "complete")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python,
    packages,
    torchvision_build,
    transformers_api,
    gpu,
    disk,
    hub,
    language_data,
)


def downloads(run: Run) -> Iterator[Finding]:
    """Bytes of every checkpoint and data set of a run, and whether the disk has room for them."""
    from agilepruner.dry_run import needs
    from agilepruner.hub import cache, check_room, readable

    parts, unknown = [], 0
    for name, found in needs(run):
        if isinstance(found, UserError):
            unknown += 1
            yield Finding("warn", name, "size not known", str(found))
            continue
        parts += found
        missing = sum(sum(part.missing.values()) for part in found)
        size = readable(sum(part.bytes for part in found))
        there = f"{readable(missing)} of them to download" if missing else "here"
        yield Finding("ok", name, f"{size}, {there}, at commit {found[0].commit[:8]}")
    missing = sum(sum(part.missing.values()) for part in parts)
    try:
        check_room(parts)
    except UserError as error:
        yield Finding("fail", "room", "too little", str(error))
    else:
        more = f", and {unknown} of unknown size" if unknown else ""
        yield Finding("ok", "room", f"{readable(missing)} to download to {cache()}{more}")


def examine(run: Run | None = None) -> Iterator[Finding]:
    """Every check, those of a run last; one that cannot run is itself a finding."""
    for check in (*CHECKS, *([partial(downloads, run)] if run else ())):
        try:
            yield from check()
        except Exception as error:
            cause = f"{type(error).__name__}: {error}".split("\n")[0]
            fix = "Fix what is reported above and run this again."
            name = getattr(check, "__name__", "downloads").replace("_", " ")
            yield Finding("fail", name, cause, fix)


def main(run: Run | None = None) -> int:
    """Print the findings, also those of a run; 1 when something will not work."""
    findings = []
    for finding in examine(run):
        findings.append(finding)
        print(finding)
    count = {level: sum(f.level == level for f in findings) for level in ("fail", "warn")}
    print(f"{count['fail']} to fix, {count['warn']} that only some runs need.")
    return 1 if count["fail"] else 0
