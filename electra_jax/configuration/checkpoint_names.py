"""Names of checkpoints: DIR is the newest of a run, DIR:STEP that of a step. Wherever a run is an input,
either may be given, and the step is written down."""

import os
from typing import NamedTuple

from data_pipelines.buckets import bucket_url, is_bucket, sizes_under


class CheckpointName(NamedTuple):
    """A run, or a directory without checkpoints, and perhaps a step."""

    directory: str  # or its URL in a bucket
    step: int | None  # None: the newest

    def __str__(self) -> str:
        return self.directory if self.step is None else f"{self.directory}:{self.step}"


def parse_checkpoint(text: str) -> CheckpointName:
    """DIR or DIR:STEP. A directory that exists under the whole text is DIR, whatever its name.

    Raises:
      OSError: the bucket of a URL that ends in a colon and digits cannot be read.
    """
    directory, _, step = text.rpartition(":")
    if not directory or not (step.isascii() and step.isdecimal()):
        return CheckpointName(text, None)
    exists = sizes_under(bucket_url(text)) if is_bucket(text) else os.path.exists(text)
    return CheckpointName(text, None) if exists else CheckpointName(directory, int(step))


def is_same_checkpoint(one: str, other: str) -> bool:
    """Whether two names may be of the same checkpoint: other paths of one directory, and not two steps."""
    first, second = parse_checkpoint(one), parse_checkpoint(other)
    steps = {first.step, second.step} - {None}
    return _place(first.directory) == _place(second.directory) and len(steps) < 2


def with_step_flag(text: str, step: int | None) -> CheckpointName:
    """The checkpoint that a command with the flag --step is given.

    Raises:
      ValueError: the name and the flag have different steps.
    """
    name = parse_checkpoint(text)
    if None not in (name.step, step) and name.step != step:
        raise ValueError(f"--step: got {step} for {text}, expected one step. Leave one of them out.")
    return name if step is None else name._replace(step=step)


def _place(directory: str) -> str:
    return bucket_url(directory) if is_bucket(directory) else os.path.realpath(directory)
