"""How long ``--help`` takes, beside importing what peers import first. One JSON line each: median of several runs."""

import argparse
import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "dsmseg --help": [sys.executable, "-m", "dsmseg", "--help"],
    "dsmseg predict --help": [sys.executable, "-m", "dsmseg", "predict", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import monai": [sys.executable, "-W", "ignore", "-c", "import monai"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603
            seconds[name].append(time.perf_counter() - started)
    for name, values in seconds.items():
        print(json.dumps({"command": name, "seconds": round(statistics.median(values), 3), "runs": runs}))


if __name__ == "__main__":
    main()
