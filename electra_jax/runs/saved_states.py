"""Restoring a state whether or not its checkpoint has the same parts. A guard may be wanted or not, since
config.trouble may change when a run resumes, and older versions had none. Their moving average was of all
parameters, also of teachers and finished generators.
"""

import jax

from electra_jax.configuration.migration import upgrade_config
from electra_jax.distributed.sharding import put_whole
from electra_jax.training.checkpointing import Checkpointer, with_shardings
from electra_jax.training.state import AveragedTrainState, TrainState, with_guard, without_guard
from electra_jax.training.trouble import init_guard, is_guarded


def restore_state(checkpointer: Checkpointer, step: int, abstract: TrainState) -> TrainState:
    """The state of a checkpoint, in the form of `abstract`. A guard that was not saved starts empty; one
    that is not wanted is dropped, and so are averages of modules that are not trained. Raises as
    `Checkpointer.restore` does."""
    if not isinstance(abstract, AveragedTrainState) or abstract.ema.keys() == abstract.params.keys():
        return _restore(checkpointer, step, abstract)
    averaged = checkpointer.averaged_modules(step) | abstract.ema.keys()
    full = abstract.replace(ema={name: abstract.params[name] for name in averaged & abstract.params.keys()})
    state = _restore(checkpointer, step, full)
    return state.replace(ema={name: state.ema[name] for name in abstract.ema})


def _restore(checkpointer: Checkpointer, step: int, abstract: TrainState) -> TrainState:
    has_guard = is_guarded(upgrade_config(checkpointer.describe(step)["config"])["trouble"])
    wants_guard = hasattr(abstract, "guard")
    if has_guard == wants_guard:
        return checkpointer.restore(step, abstract)
    everywhere = abstract.step.sharding
    if wants_guard:
        state = checkpointer.restore(step, without_guard(abstract))
        return with_guard(state, put_whole(init_guard(), everywhere))
    guard = jax.eval_shape(init_guard)
    guard = with_shardings(guard, jax.tree.map(lambda _: everywhere, guard))
    return without_guard(checkpointer.restore(step, with_guard(abstract, guard)))
