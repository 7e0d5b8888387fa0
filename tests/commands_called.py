"""The command `fafa`, called in this process."""

from typer.testing import CliRunner

from fafa.cli import app


def call(*arguments, status=0):
    """What a command prints to stdout, and to stderr; it must end with this status."""
    result = CliRunner().invoke(app, [str(one) for one in arguments], prog_name="fafa")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    said = result.exception.code if isinstance(result.exception, SystemExit) else 0
    told = said if isinstance(said, str) else result.stderr  # a sentence, which Python prints when the process ends
    assert (1 if isinstance(said, str) else result.exit_code) == status, (result.exit_code, told)
    return result.stdout, told
