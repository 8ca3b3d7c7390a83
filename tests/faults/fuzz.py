"""Broken inputs of every kind, by the thousand: ``python -m tests.faults.fuzz --examples 2000 --seed 1``.

Each input must be taken, or refused with one clear line and nothing left behind. Anything else is a crash.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.faults import adapters, configurations, downloads, folders, rows
from tests.faults.kinds import Kind, tally

KINDS: list[Kind] = [configurations.KIND, adapters.KIND, rows.KIND, downloads.KIND, folders.KIND]


def main() -> None:
    """Print the table of what came of the inputs; exit with 1 if any crashed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=200, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=[kind.name for kind in KINDS], action="append", help="default: all")
    parser.add_argument("--reasons", action="store_true", help="print the most frequent errors too")
    arguments = parser.parse_args()
    crashed = False
    print(f"{'kind':<16}{'tried':>7}{'accepted':>10}{'clear errors':>14}{'crashes':>9}{'seconds':>9}")
    for kind in KINDS:
        if arguments.kind and kind.name not in arguments.kind:
            continue
        start = time.monotonic()
        found = tally(kind, arguments.examples, arguments.seed)
        seconds = time.monotonic() - start
        print(
            f"{kind.name:<16}{found.tried:>7}{found.accepted:>10}{found.refused:>14}{len(found.crashes):>9}{seconds:>9.1f}"
        )
        first = {crash.partition(" <- ")[0][:80]: crash for crash in reversed(found.crashes)}
        for crash in first.values():
            print("   ", crash[:1500])
        if arguments.reasons:
            for reason, count in found.reasons.most_common(40):
                print(f"    {count:>5}  {reason}")
        crashed |= bool(found.crashes)
    sys.exit(int(crashed))


if __name__ == "__main__":
    main()
