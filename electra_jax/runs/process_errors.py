"""How a command that several processes run together ends after an error."""

import contextlib
from collections.abc import Iterator

import jax

from data_pipelines.command_errors import EXPECTED, error_message
from electra_jax.distributed.processes import exit_process


@contextlib.contextmanager
def exit_on_error(*more: type[Exception]) -> Iterator[None]:
    """Context of a command's work: an expected error becomes a message and exit code 1 (`exit_process`).

    Expected are the errors of every command, those of the types `more`, a loader's RuntimeError that was
    caused by an OSError, and, with several processes, any RuntimeError: that is how JAX reports a process
    that is gone. Other errors keep their traceback.
    """
    try:
        yield
    except (*EXPECTED, *more) as error:
        exit_process(error_message(error))
    except RuntimeError as error:
        if not (isinstance(error.__cause__, OSError) or jax.distributed.is_initialized()):
            raise
        exit_process(error_message(error))
