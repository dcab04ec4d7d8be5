"""Say whether torchvision fits the installed torch, and remove it when it does not.

    python scripts/check_torchvision.py [--remove]

lmms-eval lists torchvision among its requirements, so pip installs it; beside a CPU build of torch
the registry's torchvision cannot be imported and breaks transformers. Nothing here needs it.
"""

import argparse
import subprocess
import sys

PROBE = "from agilepruner.torchvision import state; print(state())"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--remove", action="store_true", help="uninstall it when it is broken")
    args = parser.parse_args()
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    state = probe.stdout.strip() or f"broken: {probe.stderr.strip().splitlines()[-1]}"
    if not state.startswith("broken"):
        return
    print(f"torchvision is {state}", file=sys.stderr)
    if args.remove:
        command = [sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"]
        subprocess.run(command, check=True)
        print("removed it: transformers uses its PIL image processors instead", file=sys.stderr)


if __name__ == "__main__":
    main()
