"""The command: run what is not caught yet, keep each result as it comes, print the score."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from .declared import MUTANTS
from .machine import EQUIVALENT, SURVIVED, Mutant, MutantError, Result, Tree, read_results, score, write_results


def is_done(mutant: Mutant, result: Result | None) -> bool:
    """Return whether a mutant need not be run again: it was caught, or is known to be equivalent."""
    return result is not None and result.digest == mutant.digest and result.outcome != SURVIVED


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("only", nargs="*", help="parts of names, kinds or files; without any, all mutants")
    parser.add_argument("--again", action="store_true", help="run those that have a result, too")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant after so long")
    given = parser.parse_args()
    results, started = read_results(), time.monotonic()
    chosen = [m for m in MUTANTS if all(part in f"{m.name} {m.kind} {m.file}" for part in given.only)]
    done = {m.name for m in MUTANTS if is_done(m, results.get(m.name))}
    waiting = [m for m in chosen if given.again or m.name not in done]
    waiting.sort(key=lambda m: m.tests)  # those of the same tests follow each other
    wrong = []
    with tempfile.TemporaryDirectory(prefix="gpumlp-mutants-") as folder:
        tree, checked = Tree(Path(folder)), set()
        for number, mutant in enumerate(waiting, 1):
            if time.monotonic() - started > given.seconds:
                break
            try:
                if mutant.tests not in checked:
                    tree.check(mutant.tests)
                    checked.add(mutant.tests)
                results[mutant.name] = found = tree.run(mutant)
            except MutantError as error:
                wrong.append(mutant.name)
                print(f"{number}/{len(waiting)} {mutant.name}: {error}", flush=True)
                continue
            write_results(MUTANTS, results)
            print(f"{number}/{len(waiting)} {found.outcome:10} {found.seconds:6.1f} s  {mutant.name}", flush=True)
    write_results(MUTANTS, results)
    caught, total, missing = score(MUTANTS, results)
    for mutant in MUTANTS:
        if mutant.name in results and results[mutant.name].outcome in (SURVIVED, EQUIVALENT):
            print(f"{results[mutant.name].outcome}: {mutant.name} ({mutant.file}) {mutant.equivalent}")
    share = caught / max(total, 1)
    print(f"{caught} of {total} caught ({share:.1%}), {missing} without a result, {len(wrong)} wrong")
    return int(bool(wrong or missing or caught < 0.98 * total))


if __name__ == "__main__":
    raise SystemExit(main())
