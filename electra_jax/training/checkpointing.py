"""Saving and restoring a TrainState with Orbax. Every checkpoint is checked before it is read."""

import contextlib
import itertools
import os
import re
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from electra_jax.distributed.processes import barrier, exchange, is_main_process
from electra_jax.training.checksum_item import (
    CHECKSUMS,
    ChecksumHandler,
    ChecksumSave,
    checksums_of,
    damage_of,
)
from electra_jax.training.checksums import OnProgress, digest
from electra_jax.training.kept_checkpoints import which_to_keep
from electra_jax.training.plain_paths import PlainPath, check_may_write
from electra_jax.training.state import TrainState
from electra_jax.training.stragglers import silence_stragglers

DAMAGED = "damaged"  # a checkpoint that was set aside is called STEP.damaged, STEP.damaged.2, …
_DETAILS = re.compile(r"\s*\[tensorstore_spec|\s*\[source locations|\s*See full TensorStore details|\n")
_FULL = re.compile("No space left on device|Disk quota exceeded")
_ABOUT = "checkpoint"  # key of the saved description for what a checkpoint tells about itself


class Inspection(NamedTuple):
    """What a look at a whole checkpoint, before any array is restored, has found."""

    problem: str  # why it may not be used; "" if it may
    description: dict[str, Any]  # saved with it; {} if it cannot be read
    has_checksums: bool = True  # False: an older version wrote it, and damage to its arrays is not noticed


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its own check of whether the run has been told to stop: it would count steps,
    while `StopNotice` counts calls."""

    def reached_preemption(self, step: int) -> bool:
        return False


class UnusableCheckpoint(OSError):
    """A checkpoint is damaged or of another model; names it, and a whole one."""

    def __init__(self, path: str, reason: str, advice: str):
        self.reason = reason
        super().__init__(f"The checkpoint {path} cannot be used: {reason}. {advice}")


class Checkpointer:
    """Checkpoints of one run under `directory`, saved in the background.

    A checkpoint holds the state, a JSON description of the run (config and data fingerprints) and checksums
    of all of that. It appears under its step only when it is complete, so a crash or a full disk during a
    save does not affect earlier checkpoints.

    Args:
      keep: how many of the newest checkpoints to keep. None opens the directory for reading alone, and leaves
        unfinished checkpoints of a running run untouched.
      reach: steps that the run may return by; checkpoints `within_reach` are kept besides.

    Attributes:
      on_progress: called each time that another part of a checkpoint has been compared with its checksums.
    """

    def __init__(self, directory: str, *, keep: int | None, reach: int = 0):
        silence_stragglers()
        self._plain = PlainPath(directory, create=keep is not None)
        self._directory = self._plain.original
        if keep is not None:
            check_may_write(self._directory)
        self._inspected: dict[int, Inspection] = {}
        self.on_progress: OnProgress = lambda: None
        self._has_failed = False
        self._manager = _Manager(
            epath.Path(self._plain.path),  # absolute, as Orbax needs it
            options=ocp.CheckpointManagerOptions(
                **which_to_keep(keep, reach), cleanup_tmp_directories=True, read_only=keep is None
            ),
            # In this order they are completed.
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "run": ocp.JsonCheckpointHandler(),
                CHECKSUMS: ChecksumHandler(),
            },
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
          OSError: this save, or an earlier one in the background, could not be written.
        """
        self.wait()
        about = {"step": step, "has_checksums": True}
        items = {
            "state": ocp.args.StandardSave(state),
            "run": ocp.args.JsonSave(run | {_ABOUT: about}),
            CHECKSUMS: ChecksumSave(),
        }
        self._inspected.pop(step, None)
        try:
            self._manager.save(step, args=ocp.args.Composite(**items))
        except Exception as error:
            raise self._failure(error) from error

    def save_params(self, params: Any, run: dict[str, Any]) -> None:
        """Save parameters without training state as step 0, for other runs to start from.

        Raises:
          OSError: they could not be written. Nothing resumes then, and the directory may be a temporary one.
        """
        try:
            self.save(0, {"params": params}, run)
            self.wait()
        except OSError as error:
            raise OSError(
                f"The parameters could not be saved: {self._reason(error.__cause__ or error)}. If the disk "
                "is full, free space. Run the same command again."
            ) from error

    def place(self, step: int) -> epath.Path:
        """The directory of a checkpoint."""
        return self._manager.directory / str(step)

    def inspect(self, step: int) -> Inspection:
        """Whether a checkpoint is whole: its files against their checksums, and its step against its name.

        Raises:
          OSError: its files cannot be read, though they may be whole (permission, network).
        """
        if step not in self._inspected:
            self._inspected[step] = self._inspect(step)
        return self._inspected[step]

    def _inspect(self, step: int) -> Inspection:
        directory = self.place(step)
        has_checksums = True
        try:
            if damage := damage_of(directory, self.on_progress):
                return Inspection(damage, {})
        except FileNotFoundError:
            has_checksums = False
        if not (directory / "run").is_dir() or not (directory / "state").is_dir():
            return Inspection("parts of it are missing", {})
        try:
            description = dict(ocp.JsonCheckpointHandler().restore(directory / "run"))
        except Exception as error:
            return Inspection(f"its description cannot be read: {self._reason(error)}", {}, has_checksums)
        about = description.pop(_ABOUT, {})
        problem = ""
        if about.get("has_checksums") and not has_checksums:
            problem = "its checksums are missing"
        elif about.get("step", step) != step:
            problem = f"it is the checkpoint of step {about['step']}, under another name"
        return Inspection(problem, description, has_checksums)

    def saved_description(self, step: int) -> dict[str, Any]:
        """The JSON description saved with `step`, without a look at its checksums; {} if it is damaged."""
        return self._described(self.place(step))

    @staticmethod
    def _described(checkpoint: epath.Path) -> dict[str, Any]:
        with contextlib.suppress(Exception):  # it is damaged
            return dict(ocp.JsonCheckpointHandler().restore(checkpoint / "run"))
        return {}

    def set_aside(self, step: int) -> str:
        """Give a damaged checkpoint another name, which is returned; every process must call this. Nothing is
        deleted."""
        name = exchange(self._free_name(step))[0]
        if is_main_process():
            self._rename(step, name)
        barrier("checkpoint set aside")
        self._manager.reload()
        self._inspected.pop(step, None)
        return name

    def _free_name(self, step: int) -> str:
        return self._first_free(step, {path.name for path in self._manager.directory.iterdir()})

    @staticmethod
    def _first_free(step: int, taken: set[str]) -> str:
        """The first name for what is set aside that is not in use."""
        first = f"{step}.{DAMAGED}"
        names = itertools.chain([first], (f"{first}.{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in taken)

    def _rename(self, step: int, name: str) -> None:
        self.place(step).rename(self._manager.directory / name)

    def restore(self, step: int, abstract_state: TrainState) -> TrainState:
        """State of `step`. Each array gets the sharding of its counterpart in `abstract_state`, on any mesh.

        Raises:
          OSError: the checkpoint is damaged or of another model; names it, and a whole one.
        """
        self._check_once(step)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        try:
            state = self._manager.restore(step, args=args)["state"]
        except Exception as error:
            raise self._unreadable(step, self._reason(error)) from error
        if int(state.step) != step:
            raise self._unreadable(step, f"its state is that of step {int(state.step)}")
        return state

    def restore_params(self, step: int, abstract_params: Any) -> Any:
        """The parameters alone, or their moving average where the checkpoint has one, saved by `save` or
        `save_params`. Shards them and raises as `restore` does."""
        self._check_once(step)
        directory = self.place(step) / "state"
        try:
            with ocp.PyTreeCheckpointer() as reader:
                averaged = self._saved_tree(reader, step).get("ema", {})
                wanted: dict[str, dict[str, Any]] = {"params": {}, "ema": {}}
                for name, module in abstract_params.items():
                    wanted["ema" if name in averaged else "params"][name] = module
                wanted = {part: modules for part, modules in wanted.items() if modules}
                args = ocp.args.PyTreeRestore(
                    wanted,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                    partial_restore=True,
                )
                found = reader.restore(directory, args=args)
            params = {name: module for part in found.values() for name, module in part.items()}
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
            raise self._unreadable(step, self._reason(error)) from error

    def averaged_modules(self, step: int) -> set[str]:
        """Names of the modules of which `step` has a moving average; raises as `restore` does."""
        try:
            with ocp.PyTreeCheckpointer() as reader:
                return set(self._saved_tree(reader, step).get("ema", {}))
        except Exception as error:
            raise self._unreadable(step, self._reason(error)) from error

    def _saved_tree(self, reader: ocp.PyTreeCheckpointer, step: int) -> dict[str, Any]:
        """The names and shapes of the arrays of `step`, for which every one of them is opened. Raises
        ValueError if they are not found."""
        metadata = reader.metadata(self.place(step) / "state").item_metadata
        if metadata is None or not metadata.tree:
            raise ValueError("its arrays are not found: it was not written completely")
        return metadata.tree

    def check(self, step: int) -> Inspection:
        """As `inspect`; raises OSError unless the checkpoint is whole."""
        inspection = self.inspect(step)
        if inspection.problem:
            raise self._unreadable(step, inspection.problem)
        return inspection

    def fingerprint(self, step: int) -> str:
        """SHA-256 of the checksums of the arrays of `step`, which are not read; "" without checksums."""
        return digest(checksums_of(self.place(step)), "state/")

    def _check_once(self, step: int) -> None:
        """`check`, whose answer holds for one restoring: the next one looks again."""
        self.check(step)
        self._inspected.pop(step, None)

    def describe(self, step: int) -> dict[str, Any]:
        """The JSON description saved with `step`; raises as `check` does."""
        return self.check(step).description

    def _unreadable(self, step: int, reason: str) -> UnusableCheckpoint:
        others = [other for other in reversed(self.all_steps()) if other != step]
        whole = next((other for other in others if not self.inspect(other).problem), None)
        advice = "The run has no other checkpoint that is whole."
        if whole is not None:
            advice = f"A whole one is {os.path.dirname(self._directory)}:{whole}, of step {whole}."
        return UnusableCheckpoint(os.path.join(self._directory, str(step)), reason, advice)

    def remove(self, step: int) -> None:
        """Delete a checkpoint of what a rollback undid; every process must call this."""
        self.wait()
        self._manager.delete(step)
        self._inspected.pop(step, None)

    def wait(self) -> None:
        """Block until everything is on disk; raises OSError as `save` does."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Wait for what is being saved; raises OSError as `save` does, unless it was raised before."""
        try:
            self._manager.close()
        except Exception as error:
            if not self._has_failed:
                raise self._failure(error) from error
        finally:
            self._plain.close()

    def _failure(self, error: Exception) -> OSError:
        self._has_failed = True
        # Orbax counts the new one and no longer the oldest one, as if the save had succeeded.
        with contextlib.suppress(OSError):
            self._manager.reload()
        return OSError(
            f"A checkpoint could not be saved in {self._directory}: {self._reason(error)}. The "
            f"checkpoints of steps {self.all_steps()} are complete. If the disk is full, free space or lower "
            "config.checkpoint.keep. Run the same command again: it resumes from the newest checkpoint."
        )

    def _reason(self, error: Exception) -> str:
        """The beginning of the error's text with the directory's own path, without the pages that TensorStore
        adds on how it opened the file."""
        if full := _FULL.search(str(error)):
            return full[0].lower()
        text = _DETAILS.split(str(error), maxsplit=1)[0].strip().rstrip(".:,;")
        return text.replace(str(self._manager.directory), self._directory) or type(error).__name__


def with_shardings(abstract_state: Any, shardings: Any) -> Any:
    """The abstract arrays with shardings attached, as `restore` needs them."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_state,
        shardings,
    )
