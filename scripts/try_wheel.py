"""Build the wheel, install it beside this environment's libraries, and use it in an empty folder.

    python scripts/try_wheel.py        # or: make wheel

The wheel lies in ``dist/`` afterwards. Everything else is temporary; nothing is downloaded.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    ["--help"],
    ["dry_run=true"],
    ["limit=2", "benchmark=pope", "budget=64"],
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder) / "wheel")
        python = environment(Path(folder) / "venv", wheel)
        empty = Path(folder) / "empty"
        empty.mkdir()
        for arguments in COMMANDS:
            say(f"agilepruner {' '.join(arguments)}")
            run([str(python.with_name("agilepruner")), *arguments], empty)
        written = sorted(path.name for path in (empty / "results/sweep").iterdir())
        if "table.md" not in written:
            sys.exit(f"no table in ./results/sweep, only {', '.join(written)}")
        kept = ROOT / "dist" / wheel.name
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(wheel.read_bytes())
        say(f"the wheel works: dist/{kept.name}, {kept.stat().st_size / 2**20:.0f} MiB")


def build(folder: Path) -> Path:
    """The wheel of this checkout."""
    say("building the wheel")
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # files deleted since would be in the wheel
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    run([sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), "."], ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(folder: Path, wheel: Path) -> Path:
    """The interpreter of a new environment: the wheel, and the libraries of this environment."""
    say("installing it in a new environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    answer = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    library = Path(subprocess.run(answer, check=True, capture_output=True, text=True).stdout[:-1])
    # A path, not a site directory: the editable install of this environment has no part in it.
    (library / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--quiet", "--no-deps", "--disable-pip-version-check"]
    run([str(python), "-m", "pip", "install", *options, str(wheel)], folder)
    return python


def run(command: list[str], folder: Path) -> None:
    """A command in a folder, without this process's PYTHONPATH; its failure is ours."""
    quiet = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if (code := subprocess.run(command, cwd=folder, env=quiet).returncode) != 0:
        sys.exit(f"exit status {code}: {' '.join(command)}")


def say(line: str) -> None:
    print(f"-- {line}", flush=True)


if __name__ == "__main__":
    main()
