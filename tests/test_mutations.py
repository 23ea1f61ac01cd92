"""The list of mutations stays true to the code: each place is there once, and each test that is to catch it is there."""

import ast
from pathlib import Path

import pytest
from mutations import MUTATIONS, PACKAGE, REPOSITORY, mutate

TESTS = Path(__file__).parent


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_has_its_place_and_its_tests(mutation):
    text = (REPOSITORY / PACKAGE / mutation.file).read_text(encoding="utf-8")
    ast.parse(mutate(text, mutation))
    assert mutation.after != mutation.before
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (TESTS / file).read_text(encoding="utf-8"), test


def test_no_two_mutations_are_called_the_same():
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names) >= 28
    assert all(mutation.tests for mutation in MUTATIONS)
