"""How programs end."""

import argparse
import os
import signal

import pytest

from mtaclip.demo.problems import run_program


def run(function, capsys) -> tuple[int, str]:
    """Exit status and what is on standard error."""
    try:
        status = run_program(argparse.ArgumentParser(prog="program"), function, [], logs=False)
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr().err


def fail(error: Exception) -> None:
    raise error


def test_the_status_is_that_of_the_program_or_0(capsys):
    assert run(lambda _: None, capsys) == (0, "")
    assert run(lambda _: 1, capsys) == (1, "")


def test_what_a_user_can_mend_is_a_sentence(capsys):
    assert run(lambda _: fail(ValueError("no such class.")), capsys) == (2, "program: error: no such class.\n")
    with pytest.raises(ZeroDivisionError):
        run(lambda _: fail(ZeroDivisionError()), capsys)


def test_ctrl_c_is_a_sentence(capsys):
    status, said = run(lambda _: os.kill(os.getpid(), signal.SIGINT), capsys)
    assert (status, said) == (130, "program: interrupted; the files that were written are complete.\n")
