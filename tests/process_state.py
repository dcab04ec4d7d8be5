"""What a library could change for the whole process, each read as something that compares.

Run as a program it does what a run does with lmms-eval and prints, as JSON, what has changed since:
`python process_state.py contained`, or `... uncontained` without the containment.
"""

import asyncio
import csv
import decimal
import gc
import json
import locale
import logging
import mimetypes
import multiprocessing
import os
import random
import signal
import socket
import ssl
import sys
import threading
import warnings
from contextlib import nullcontext

import datasets
import filelock
import huggingface_hub
import loguru
import nltk
import numpy as np
import pandas as pd
import torch
import transformers
import yaml
from PIL import Image, ImageFile


def attributes(module, *names):
    return {name: repr(getattr(module, name)) for name in names}


def constants(module):
    return {name: repr(value) for name, value in vars(module).items() if name.isupper()}


def loggers():
    """Of the loggers there were at the first call; a library's own new ones are its own."""
    return {
        name: (logger.level, repr(logger.handlers), logger.propagate, logger.disabled)
        for name in LOGGERS
        for logger in [logging.getLogger(name)]
    }


LOGGERS = ["", *(n for n, x in logging.root.manager.loggerDict.items() if hasattr(x, "level"))]
DECIMAL = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")
CUDNN = ("enabled", "benchmark", "deterministic", "allow_tf32")
YAML = (yaml.Loader, yaml.FullLoader, yaml.UnsafeLoader, yaml.SafeLoader)
PRINT_OPTIONS = torch._tensor_str.PRINT_OPTS
Image.init()

WATCHED = {
    "environment variables": lambda: dict(os.environ),
    "working directory": os.getcwd,
    "sys.path": lambda: list(sys.path),
    "standard streams": lambda: [id(s) for s in (sys.stdin, sys.stdout, sys.stderr)],
    "exception hooks": lambda: [
        sys.excepthook is sys.__excepthook__,
        sys.unraisablehook is sys.__unraisablehook__,
        sys.displayhook is sys.__displayhook__,
        threading.excepthook is threading.__excepthook__,
    ],
    "recursion limit": sys.getrecursionlimit,
    "thread switch interval": sys.getswitchinterval,
    "garbage collector": lambda: (gc.isenabled(), gc.get_threshold(), gc.get_debug()),
    "signal handlers": lambda: [repr(signal.getsignal(n)) for n in sorted(signal.valid_signals())],
    "locale": lambda: locale.setlocale(locale.LC_ALL),
    "decimal context": lambda: attributes(decimal.getcontext(), *DECIMAL),
    "mimetypes": lambda: (dict(mimetypes.types_map), dict(mimetypes.common_types)),
    "csv field size": csv.field_size_limit,
    "socket": lambda: (socket.getdefaulttimeout(), repr(socket.socket), repr(socket.getaddrinfo)),
    "ssl": lambda: [repr(ssl._create_default_https_context), repr(ssl.SSLContext.__reduce__)],
    "filelock": lambda: repr(type(filelock.FileLock).__call__),
    "multiprocessing": lambda: multiprocessing.get_start_method(allow_none=True),
    "asyncio": lambda: repr(type(asyncio.get_event_loop_policy())),
    "warning filters": lambda: [repr(entry) for entry in warnings.filters],
    "warning hook": lambda: [repr(warnings.showwarning), repr(warnings.formatwarning)],
    "logging": lambda: (logging.root.manager.disable, logging.raiseExceptions, loggers()),
    "logging classes": lambda: [
        repr(logging.getLoggerClass()),
        repr(logging.getLogRecordFactory()),
    ],
    "loguru sinks": lambda: repr(loguru.logger),
    "random": lambda: hash(random.getstate()),
    "numpy random": lambda: [hash(x.tobytes() if hasattr(x, "tobytes") else x) for x in np_state()],
    "numpy settings": lambda: (np.geterr(), repr(np.get_printoptions())),
    "torch random": lambda: torch.get_rng_state().tolist(),
    "torch threads": lambda: (torch.get_num_threads(), torch.get_num_interop_threads()),
    "torch defaults": lambda: [repr(torch.get_default_dtype()), repr(torch.get_default_device())],
    "torch modes": lambda: (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.is_anomaly_enabled(),
    ),
    "torch matmul": lambda: (
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.mkldnn.enabled,
    ),
    "torch cudnn": lambda: attributes(torch.backends.cudnn, *CUDNN),
    "torch attention kernels": lambda: (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
    ),
    "torch printing": lambda: repr(vars(PRINT_OPTIONS)),
    "torch sharing": torch.multiprocessing.get_sharing_strategy,
    "torch process group": lambda: attributes(
        torch.distributed.distributed_c10d, "default_pg_timeout", "init_process_group"
    ),
    "PIL": lambda: (ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK, Image.MAX_IMAGE_PIXELS),
    "PIL formats": lambda: (sorted(Image.OPEN), dict(Image.EXTENSION)),
    "YAML": lambda: [sorted(map(str, loader.yaml_constructors)) for loader in YAML],
    "pandas": lambda: [repr(pd.get_option(n)) for n in ("display.max_rows", "display.precision")],
    "datasets": lambda: (constants(datasets.config), datasets.logging.get_verbosity()),
    "datasets bars": datasets.are_progress_bars_disabled,
    "datasets caching": datasets.is_caching_enabled,
    "hub": lambda: (constants(huggingface_hub.constants), huggingface_hub.logging.get_verbosity()),
    "hub bars": huggingface_hub.utils.are_progress_bars_disabled,
    "transformers": transformers.logging.get_verbosity,
    "transformers bars": transformers.logging.is_progress_bar_enabled,
    "nltk data": lambda: list(nltk.data.path),
}


def np_state():
    return np.random.get_state()


def snapshot():
    return {name: json.dumps(read(), default=repr) for name, read in WATCHED.items()}


def use_lmms_eval():
    """Import all that is ever imported, load benchmarks, and score them."""
    from hydra import compose, initialize_config_dir

    from agilepruner.cli import CONFIGS
    from evals import lmms, sources, tasks
    from evals.scoring import score

    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("config", overrides=["benchmark=[mmbench_en,chair,vqav2,pope]"])
    for name, benchmark in config.benchmark.items():
        source = sources.directory(config.suite, name, lambda path: path.name)
        loaded = tasks.load(name, benchmark, source, "lmms", limit=2)
        score(loaded, {d.index: "A dog." for d in loaded.documents})
    # The worst of the rest: a seed, the size of pictures, another loguru sink, a day as timeout.
    for module in ("tomato.utils", "xlrs.mcq_utils"):
        lmms.task_module(module)
    with lmms.contained():
        import lmms_eval.evaluator
        import lmms_eval.llm_judge.factory
        import lmms_eval.models  # noqa: F401


def main(how):
    from evals import lmms

    logging.getLogger("httpx").setLevel(logging.DEBUG)
    loguru.logger.remove()
    loguru.logger.add(sys.stderr, level="INFO")
    if how == "uncontained":
        lmms.contained = nullcontext
    before = snapshot()
    use_lmms_eval()
    after = snapshot()
    print(
        json.dumps(
            {n: [before[n][-300:], after[n][-300:]] for n in WATCHED if before[n] != after[n]}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
