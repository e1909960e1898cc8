"""Saving and restoring a TrainState: the only module that knows Orbax."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from electra_jax.training.plain_paths import PlainPath
from electra_jax.training.state import TrainState


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its own check of whether the run has been told to stop: it would count steps,
    while `StopNotice` counts calls."""

    def reached_preemption(self, step: int) -> bool:
        return False


def within_reach(steps: Sequence[int], reach: int) -> set[int]:
    """The checkpoints that a return by `reach` steps may need: those of the last `reach` steps before the
    newest one, and the newest one that is older."""
    border = max(steps, default=0) - reach
    older = [step for step in steps if step <= border]
    return {step for step in steps if step > border} | ({max(older)} if older else set())


class _Reach:
    """Orbax's policy to keep those, whatever else is kept."""

    def __init__(self, reach: int):
        self._reach = reach

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        kept = within_reach([one.step for one in checkpoints], self._reach)
        return [one.step in kept for one in checkpoints]


def _which_to_keep(keep: int | None, reach: int) -> dict[str, Any]:
    """Options of Orbax's manager."""
    if not reach:
        return {"max_to_keep": keep}
    policies = [preservation_policy.LatestN(keep), _Reach(reach)]
    return {"preservation_policy": preservation_policy.AnyPreservationPolicy(policies)}


class Checkpointer:
    """Checkpoints of one run under `directory`, saved in the background.

    A checkpoint holds the state and a JSON description of the run (config and data fingerprints). It appears
    under its step only when it is complete, so a crash or a full disk during a save does not affect earlier
    checkpoints.

    Args:
      keep: how many of the newest checkpoints to keep. None opens the directory for reading alone, and leaves
        unfinished checkpoints of a running run untouched.
      reach: steps that the run may return by; checkpoints `within_reach` are kept besides.
    """

    def __init__(self, directory: str, *, keep: int | None, reach: int = 0):
        _silence_stragglers()
        self._plain = PlainPath(directory, create=keep is not None)
        self._directory = self._plain.original
        self._unchecked: int | None = None  # the step that was saved last, until it has been read back
        self._manager = _Manager(
            epath.Path(self._plain.path),  # absolute, as Orbax needs it
            options=ocp.CheckpointManagerOptions(
                **_which_to_keep(keep, reach), cleanup_tmp_directories=True, read_only=keep is None
            ),
            item_names=("state", "run"),
        )

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint; None without checkpoints."""
        return max(self.all_steps(), default=None)

    def all_steps(self) -> list[int]:
        """Steps of all complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, run: dict[str, Any]) -> None:
        """Start to save; returns when the arrays have been copied from the devices.

        Raises:
          OSError: this save, or an earlier one in the background, could not be written, or the earlier one
            cannot be read.
        """
        self.wait()
        try:
            self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
            )
        except Exception as error:
            raise self._failure(error) from error
        self._unchecked = step

    def save_params(self, params: Any, run: dict[str, Any]) -> None:
        """Save parameters without training state as step 0, for other runs to start from. Raises OSError as
        `save` does."""
        self.save(0, {"params": params}, run)
        self.wait()

    def restore(self, step: int, abstract_state: TrainState) -> TrainState:
        """State of `step`. Each array gets the sharding of its counterpart in `abstract_state`, on any mesh.

        Raises:
          OSError: the checkpoint is damaged or of another model; names it.
        """
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        try:
            return self._manager.restore(step, args=args)["state"]
        except Exception as error:
            raise self._unreadable(step, error) from error

    def restore_params(self, step: int, abstract_params: Any) -> Any:
        """The parameters alone, or their moving average if the checkpoint has one, saved by `save` or
        `save_params`. Shards them and raises as `restore` does."""
        directory = self._manager.directory / str(step) / "state"
        try:
            with ocp.PyTreeCheckpointer() as reader:
                name = "ema" if "ema" in self._saved_tree(reader, step) else "params"
                wanted = {name: abstract_params}
                args = ocp.args.PyTreeRestore(
                    wanted,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                    partial_restore=True,
                )
                params = reader.restore(directory, args=args)[name]
            # A partial restore does not report missing arrays.
            missing = [
                jax.tree_util.keystr(path, simple=True, separator="/")
                for path, leaf in jax.tree_util.tree_leaves_with_path(params)
                if not isinstance(leaf, jax.Array)
            ]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
            return params
        except Exception as error:
            raise self._unreadable(step, error) from error

    def _saved_tree(self, reader: ocp.PyTreeCheckpointer, step: int) -> dict[str, Any]:
        """The names and shapes of the arrays of `step`, for which every one of them is opened. Raises
        ValueError if they are not found."""
        metadata = reader.metadata(self._manager.directory / str(step) / "state").item_metadata
        if metadata is None or not metadata.tree:
            raise ValueError("its arrays are not found: it was not written completely")
        return metadata.tree

    def _unreadable(self, step: int, error: Exception) -> OSError:
        others = [other for other in self.all_steps() if other != step]
        return OSError(
            f"The checkpoint {os.path.join(self._directory, str(step))} cannot be read: "
            f"{self._reason(error)}. Remove that directory to resume from an earlier checkpoint, of steps "
            f"{others}, or from the start."
        )

    def describe(self, step: int) -> dict[str, Any]:
        """The JSON description saved with `step`."""
        return self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]

    def remove(self, step: int) -> None:
        """Delete a checkpoint of what a rollback undid; every process must call this."""
        self.wait()
        self._manager.delete(step)

    def wait(self) -> None:
        """Block until everything is on disk and can be read; raises OSError as `save` does."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error
        step, self._unchecked = self._unchecked, None
        # Process 0 made the checkpoint of what all processes wrote.
        if step is not None and jax.process_index() == 0:
            try:
                with ocp.PyTreeCheckpointer() as reader:
                    self._saved_tree(reader, step)
            except Exception as error:
                raise self._unreadable(step, error) from error

    def close(self) -> None:
        self._manager.close()
        self._plain.close()

    def _failure(self, error: Exception) -> OSError:
        return OSError(
            f"A checkpoint could not be saved in {self._directory}: {self._reason(error)}. The "
            f"checkpoints of steps {self.all_steps()} are complete. If the disk is full, free space or lower "
            "config.checkpoint.keep. Run the same command again: it resumes from the newest checkpoint."
        )

    def _reason(self, error: Exception) -> str:
        """The error's text with the directory's own path, without the half page that TensorStore adds on how
        it opened the file."""
        text = str(error).partition(" [tensorstore_spec")[0]
        return text.replace(str(self._manager.directory), self._directory)


def _silence_stragglers() -> None:
    """Hide the tracebacks that TensorStore prints after one array of a checkpoint has failed: one for every
    other array, since the event loop is closed by then."""
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
    """The abstract arrays with shardings attached, as `restore` needs them."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_state,
        shardings,
    )
