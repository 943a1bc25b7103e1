"""The command of the evaluation, run in this process."""

import functools

import pytest

from evaluation.__main__ import entrypoint


@pytest.fixture
def evaluation(run_program):
    """``evaluation(*arguments) -> (status, output, messages)``."""
    return functools.partial(run_program, entrypoint)
