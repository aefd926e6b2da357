"""The bugs can be planted where they are declared, some are in every run of the tests, and the score is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from .declared import MUTANTS, SAMPLE
from .machine import CAUGHT, EQUIVALENT, ROOT, SURVIVED, MutantError, Tree, read_results, score

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
LEAST = 0.98


def test_each_bug_can_be_planted_in_one_place() -> None:
    faults = []
    for mutant in MUTANTS:
        try:
            mutant.planted((ROOT / mutant.file).read_text(encoding="utf-8"))
        except MutantError as error:
            faults.append(str(error))
    assert not faults, "declare these anew, in tests/mutants/declared.py:\n" + "\n".join(faults)


def test_bugs_are_told_apart_and_their_tests_exist() -> None:
    assert [name for name, count in Counter(m.name for m in MUTANTS).items() if count > 1] == []
    assert [m.name for m in MUTANTS if m.old == m.new or (m.old in m.new and m.new in m.old)] == []
    files = {place for m in MUTANTS for place in m.tests if place.startswith("tests/")}
    assert [place for place in files if not (ROOT / place).exists()] == []
    assert len(MUTANTS) - sum(bool(m.equivalent) for m in MUTANTS) >= 100


def test_the_score_is_kept_and_high_enough() -> None:
    """Of the bugs as they are declared now: ``python -m tests.mutants`` runs those that are new or changed."""
    results = read_results()
    caught, total, missing = score(MUTANTS, results)
    assert missing == 0
    assert caught >= LEAST * total
    assert {m.name for m in MUTANTS if m.equivalent} == {n for n, r in results.items() if r.outcome == EQUIVALENT}
    assert f"{caught} of {total}" in (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("tree"))


def test_a_sample_is_caught(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: (ROOT / BY_NAME[name].file).read_bytes() for name in SAMPLE}
    for name in SAMPLE:
        assert tree.run(BY_NAME[name]).outcome == CAUGHT, name
    unseen = replace(BY_NAME[SAMPLE[0]], tests=("tests/ops/test_precision.py",))
    assert tree.run(unseen).outcome == SURVIVED
    monkeypatch.setattr(tree, "_judge", lambda mutant: (CAUGHT, "a test"))
    with pytest.raises(MutantError, match="is declared equivalent, but a test sees it"):
        tree.run(replace(unseen, equivalent="so it was thought"))
    for name, content in before.items():
        assert (ROOT / BY_NAME[name].file).read_bytes() == content, "the checkout"
        assert (tree.folder / BY_NAME[name].file).read_bytes() == content, "the copy"


@pytest.mark.parametrize(
    ("new", "tests", "said"),
    [
        ("reduce_to(", ("tests/autodiff/test_functions.py", "-k", "sub"), "is no program"),
        ("reduce_to(g, b)", ("tests/ops/test_precision.py", "-k", "nothing"), "is no program"),
    ],
)
def test_what_is_no_program_or_runs_no_test_is_refused(
    tree: Tree, new: str, tests: tuple[str, ...], said: str
) -> None:
    with pytest.raises(MutantError, match=said):
        tree.run(replace(BY_NAME[SAMPLE[0]], new=new, tests=tests))


@pytest.mark.parametrize("old", ["nowhere to be found", "Tensor"])
def test_a_text_that_is_not_there_once_is_refused(old: str) -> None:
    mutant = replace(BY_NAME[SAMPLE[0]], old=old)
    with pytest.raises(MutantError, match="times, not once"):
        mutant.planted((ROOT / mutant.file).read_text(encoding="utf-8"))
