"""What is wrong with a checkpoint, by all processes of a run: its files may look different on each host."""

from electra_jax.distributed.processes import exchange
from electra_jax.training.checkpointing import Checkpointer


def agreed_problem(checkpointer: Checkpointer, step: int) -> str:
    """What the first process that finds something wrong with a checkpoint has found. Raises OSError on all of
    them if one cannot read it; they would wait for that one otherwise."""
    found, error = ["", ""], None
    try:
        found[0] = checkpointer.inspect(step).problem
    except OSError as own:
        error, found[1] = own, str(own) or type(own).__name__
    problems, errors = zip(*exchange(found), strict=True)
    if any(errors):
        raise error or OSError(next(filter(None, errors)))
    return next(filter(None, problems), "")
