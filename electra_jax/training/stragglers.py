"""What coroutines print, for which nobody waits any longer, after an array of a checkpoint has failed."""

import sys
import warnings

# How their errors begin: TensorStore's and Orbax's.
STRAGGLERS = ("Event loop is closed", "Encountered error while reading array index")


def silence_stragglers() -> None:
    """Hide these tracebacks and warnings: one for every other array, since their coroutines end when they are
    freed, and the event loop is closed by then."""
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    previous = sys.unraisablehook
    if getattr(previous, "__module__", None) == __name__:
        return

    def hook(unraisable):
        if not str(unraisable.exc_value).startswith(STRAGGLERS):
            previous(unraisable)

    sys.unraisablehook = hook
