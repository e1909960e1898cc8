"""Saving and restoring a TrainState: the only module that knows Orbax."""

import sys
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from electra_jax.training.state import TrainState


class _Manager(ocp.CheckpointManager):
    """Orbax's, without its own look at whether the run shall stop: it would count steps where `StopNotice`
    counts calls."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpointer:
    """Checkpoints of one run under `directory`, the newest `keep` of them; saved in the background. With None
    it only reads, and leaves alone what a run that is going on has not finished saving.

    A checkpoint holds the state and a JSON description of the run that made it (config and data
    fingerprints). It appears under its step only when whole, so a crash or a full disk in mid-save leaves the
    earlier ones untouched.
    """

    def __init__(self, directory: str, *, keep: int | None):
        _silence_stragglers()
        # ml frameworks disagree on relative paths; Orbax wants absolute ones.
        self._manager = _Manager(
            epath.Path(directory).resolve(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, cleanup_tmp_directories=True, read_only=keep is None
            ),
            item_names=("state", "run"),
        )

    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint, None when there is none."""
        return self._manager.latest_step()

    def all_steps(self) -> list[int]:
        """Steps of all whole checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, run: dict[str, Any]) -> None:
        """Start saving; returns once the arrays are copied off the devices.

        Raises:
          OSError: this save, or an earlier one in the background, could not be written.
        """
        try:
            self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
            )
        except Exception as error:
            raise self._failure(error) from error

    def save_params(self, params: Any, run: dict[str, Any]) -> None:
        """Save parameters without training state as step 0: a start for other runs. Raises OSError as `save`
        does."""
        self.save(0, {"params": params}, run)
        self.wait()

    def restore(self, step: int, abstract_state: TrainState) -> TrainState:
        """State of `step`, each array laid out by the sharding of its counterpart in `abstract_state`: any
        mesh will do.

        Raises:
          OSError: the checkpoint is damaged, or of another model; names it.
        """
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        try:
            return self._manager.restore(step, args=args)["state"]
        except Exception as error:
            raise self._unreadable(step, error) from error

    def restore_params(self, step: int, abstract_params: Any) -> Any:
        """The parameters alone, of a whole state or of `save_params`; of a state with their moving average,
        that. As `restore`, and with its errors."""
        path = self._manager.directory / str(step) / "state"
        try:
            with ocp.PyTreeCheckpointer() as reader:
                name = "ema" if "ema" in reader.metadata(path).item_metadata.tree else "params"
                wanted = {name: abstract_params}
                args = ocp.args.PyTreeRestore(
                    wanted,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                    partial_restore=True,
                )
                params = reader.restore(path, args=args)[name]
            # A partial restore says nothing of what is not there.
            missing = [
                jax.tree_util.keystr(place, simple=True, separator="/")
                for place, leaf in jax.tree_util.tree_leaves_with_path(params)
                if not isinstance(leaf, jax.Array)
            ]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
            return params
        except Exception as error:
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, error: Exception) -> OSError:
        others = [other for other in self.all_steps() if other != step]
        return OSError(
            f"The checkpoint {self._manager.directory / str(step)} cannot be read: {_reason(error)}. Remove "
            f"that directory to go on from an earlier one (there are {others}), or from the start."
        )

    def describe(self, step: int) -> dict[str, Any]:
        """The JSON description saved with `step`."""
        return self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]

    def wait(self) -> None:
        """Block until everything is on disk; raises OSError as `save` does."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error

    def close(self) -> None:
        self._manager.close()

    def _failure(self, error: Exception) -> OSError:
        return OSError(
            f"A checkpoint could not be saved in {self._manager.directory}: {_reason(error)}. The "
            f"checkpoints of steps {self.all_steps()} are whole. If the disk is full, free space "
            "(config.checkpoint.keep says how many are kept). Run the same command again: it goes on from "
            "the newest."
        )


def _reason(error: Exception) -> str:
    """What went wrong, without the half page that TensorStore adds about how it opened the file."""
    return str(error).partition(" [tensorstore_spec")[0]


def _silence_stragglers() -> None:
    """After one array of a checkpoint failed, TensorStore prints a traceback for every other one, whose event
    loop is gone by then: hundreds of lines around the one message that counts."""
    previous = sys.unraisablehook
    if getattr(previous, "__module__", None) == __name__:
        return

    def hook(unraisable):
        if not (
            isinstance(unraisable.exc_value, RuntimeError)
            and str(unraisable.exc_value) == "Event loop is closed"
        ):
            previous(unraisable)

    sys.unraisablehook = hook


def with_shardings(abstract_state: Any, shardings: Any) -> Any:
    """Attach a sharding to every abstract array: what `restore` needs."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_state,
        shardings,
    )
