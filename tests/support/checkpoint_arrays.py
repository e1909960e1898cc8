"""The arrays of a checkpoint as they are stored, for comparisons of whole states."""

import jax
import numpy as np
import orbax.checkpoint as ocp


def arrays_of(workdir, step):
    """The whole state of a checkpoint, as names and arrays."""
    place = workdir / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        names = reader.metadata(place).item_metadata.tree
        on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names)
        return reader.restore(place, args=ocp.args.PyTreeRestore(restore_args=on_host))
