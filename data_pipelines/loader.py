"""`batch_at(step)`: the batch of a step as a global jax.Array, read ahead by one background thread.

The step number is the only state: nothing is saved with a checkpoint, and steps may be requested in any
order. The sharding determines which rows this process reads; each is read once, however many devices hold a
copy.

Shapes: B global batch, L sequence length.
"""

import atexit
import threading
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding

from data_pipelines.batch_order import PassedOver, batch_number
from data_pipelines.mixture import Mixture

Batch = dict[str, jax.Array]
# Small batches are read several at once, since each read of a file has a fixed cost: 1,024 rows of 512.
TOKENS_AT_ONCE = 2**19


class Loader:
    """Endless batches of a mixture: step s holds the B global examples from (s - first_step)·B on, unless
    batches were passed over.

    Args:
      mixture: anything with `rows_at`, `read`, `sources`, `special`, `sequence_length` and `dtype` like
        `Mixture`.
      batch_size: B, over all processes.
      sharding: a NamedSharding of [B, L] arrays that divides only the batch axis.
      first_step: the step that takes the mixture's first examples; earlier steps have no batch.
      prefetch: batches read ahead of the step requested last; 0 reads in the caller's thread.
      passed_over: batches that are left out, as for `batch_number`; all of their steps are `first_step` or
        later.

    Raises:
      ValueError: a batch size that the sharding does not divide, or a sharding that divides the length axis.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        batch_size: int,
        sharding: NamedSharding,
        first_step: int = 0,
        prefetch: int = 2,
        passed_over: Sequence[PassedOver] = (),
    ):
        self._mixture, self._passed_over = mixture, tuple(passed_over)
        self._batch_size, self._first_step = batch_size, first_step
        self._rows = _ShardedRows(mixture, batch_size, sharding, key="config.train.batch_size")
        self._ahead = _LookAhead(
            lambda steps: self._rows.read([self._first_example(step) for step in steps]),
            prefetch=prefetch,
            what="step",
            at_once=self._rows.at_once,
        )

    @property
    def seconds_waited(self) -> float:
        """Seconds that callers of `batch_at` have waited since the loader was made."""
        return self._ahead.seconds_waited

    def batch_at(self, step: int) -> Batch:
        """{"input_ids": [B, L]} of uint16 or int32 for a step counted from 0.

        Raises:
          RuntimeError: the rows could not be read (`__cause__` has the reason), or the loader is closed.
        """
        return self._ahead.get(step)

    def rows_at(self, step: int) -> list[tuple[str, int]]:
        """(dataset path, row number) of the B examples of a step, the same on any process; for reports."""
        start = self._first_example(step)
        dataset_index, row = self._mixture.rows_at(start, start + self._batch_size)
        paths = [source.path for source in self._mixture.sources]
        return [(paths[number], int(place)) for number, place in zip(dataset_index, row, strict=True)]

    def _first_example(self, step: int) -> int:
        return (batch_number(step, self._passed_over) - self._first_step) * self._batch_size

    def close(self) -> None:
        """Stop the background thread and wait for it. May be called twice."""
        self._ahead.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class EvaluationLoader:
    """One ordered pass over a sequential mixture in batches of fixed shape.

    The last batch is filled up with rows of only [PAD], which are never scored.

    Args:
      mixture: from `make_sequential`.
      batch_size, sharding, prefetch: as for `Loader`.
      max_batches: read this number of batches, of rows that are evenly spread over several datasets, or of
        the first rows of a single one (`Mixture.cut_to`); None, or enough for all, reads all.

    Raises:
      ValueError: an endless mixture, `max_batches` < 1, or as for `Loader`.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        batch_size: int,
        sharding: NamedSharding,
        max_batches: int | None = None,
        prefetch: int = 2,
    ):
        if mixture.num_examples is None:
            raise ValueError("EvaluationLoader needs a finite mixture (make_sequential), got an endless one.")
        if max_batches is not None and max_batches < 1:
            raise ValueError(
                f"config.eval.max_batches: got {max_batches}, expected None (all) or at least 1."
            )
        if max_batches is not None and 0 < max_batches * batch_size < mixture.num_examples:
            mixture = mixture.cut_to(max_batches * batch_size)
        rows = _ShardedRows(mixture, batch_size, sharding, key="config.eval.batch_size")
        self._num_batches = -(-mixture.num_examples // batch_size)
        self._ahead = _LookAhead(
            lambda indices: rows.read([index * batch_size for index in indices]),
            prefetch=prefetch,
            what="evaluation batch",
            at_once=rows.at_once,
            end=self._num_batches,
        )

    def __len__(self) -> int:
        return self._num_batches

    def batch_at(self, index: int) -> Batch:
        """{"input_ids": [B, L]} of batch 0 … len - 1.

        Raises:
          IndexError: beyond the last batch.
          RuntimeError: as for `Loader.batch_at`.
        """
        return self._ahead.get(index)

    def close(self) -> None:
        """Stop the background thread and wait for it. May be called twice."""
        self._ahead.close()

    def __enter__(self) -> "EvaluationLoader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class _ShardedRows:
    """Reads the rows of batches that this process's devices hold, and makes one global array of each batch.

    `at_once` is how many batches should be read together.
    """

    def __init__(self, mixture: Mixture, batch_size: int, sharding: NamedSharding, *, key: str):
        self._mixture, self._sharding = mixture, sharding
        self._shape = (batch_size, mixture.sequence_length)
        axes = sharding.spec[0] if len(sharding.spec) else None
        axes = () if axes is None else axes if isinstance(axes, tuple) else (axes,)
        shards = int(np.prod([sharding.mesh.shape[axis] for axis in axes]))
        if batch_size < 1 or batch_size % shards:
            raise ValueError(
                f"{key}: got {batch_size}, expected a positive multiple of {shards}, the number of shards "
                f"of the batch over mesh axes {axes} (config.mesh.*)."
            )
        if any(axis is not None for axis in sharding.spec[1:]):
            raise ValueError(
                f"a batch can only be sharded along its rows, got {sharding.spec}; shard the first axis only."
            )
        # Replicated devices hold the same slice; each distinct slice is read once, in order.
        slices = sharding.addressable_devices_indices_map(self._shape).values()
        self._spans = sorted({index[0].indices(batch_size)[:2] for index in slices})
        sizes = [stop - start for start, stop in self._spans]
        self._place = dict(zip(self._spans, np.cumsum([0, *sizes]).tolist(), strict=False))
        self.at_once = max(1, TOKENS_AT_ONCE // (sum(sizes) * mixture.sequence_length))

    def read(self, firsts: Sequence[int]) -> list[Batch]:
        """The batches whose rows 0 are the global examples `firsts`; rows beyond a finite mixture's end are
        padding."""
        end = self._mixture.num_examples
        wanted = [
            self._mixture.rows_at(
                *(first + bound if end is None else min(first + bound, end) for bound in span)
            )
            for first in firsts
            for span in self._spans
        ]
        ids = self._mixture.read(*(np.concatenate(parts) for parts in zip(*wanted, strict=True)))
        sizes = [len(rows) for rows, _ in wanted]
        of_batches = [sum(sizes[at : at + len(self._spans)]) for at in range(0, len(sizes), len(self._spans))]
        return [self._batch(part) for part in np.split(ids, np.cumsum(of_batches)[:-1])]

    def _batch(self, ids: np.ndarray) -> Batch:
        # Only the last spans can run over the end, so the missing rows are the last ones.
        missing = sum(stop - start for start, stop in self._spans) - len(ids)
        if missing:
            ids = np.concatenate(
                [ids, np.full((missing, ids.shape[1]), self._mixture.special.pad, ids.dtype)]
            )

        def of_device(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(self._shape[0])
            place = self._place[start, stop]
            return ids[place : place + stop - start]

        return {"input_ids": jax.make_array_from_callback(self._shape, self._sharding, of_device)}


class _LookAhead:
    """Results of `make(numbers)`, one for each, computed ahead of the number requested last by one thread; up
    to `at_once` of them together.

    The window is the `prefetch` numbers after the one requested last. A request elsewhere moves it: results
    inside the new window are kept, the others dropped, so requests in any order are correct. The thread
    starts with the first request, so a resumed run never reads batches of step 0.
    """

    def __init__(
        self,
        make: Callable[[Sequence[int]], list[Batch]],
        *,
        prefetch: int,
        what: str,
        at_once: int,
        end: int | None = None,
    ):
        if prefetch < 0:
            raise ValueError(
                f"config.data.prefetch: got {prefetch}, expected 0 (no background thread) or more."
            )
        self._make, self._prefetch, self._what, self._end = make, prefetch, what, end
        self._at_once = at_once
        self._changed = threading.Condition()
        self._window = range(0)  # numbers that the thread should have ready
        self._ready: dict[int, Batch | BaseException] = {}
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self.seconds_waited = 0.0

    def get(self, number: int) -> Batch:
        """What `make` gives for `number`, after waiting for it if necessary."""
        if number < 0 or (self._end is not None and number >= self._end):
            raise IndexError(
                f"{self._what} {number}: expected 0 … {'' if self._end is None else self._end - 1}"
            )
        began = time.perf_counter()
        try:
            result = self._get(number)
        finally:
            self.seconds_waited += time.perf_counter() - began
        if isinstance(result, BaseException):
            raise RuntimeError(f"cannot load the batch of {self._what} {number}: {result}") from result
        return result

    def _get(self, number: int) -> Batch | BaseException:
        with self._changed:
            if self._is_closed:
                raise RuntimeError(f"the loader is closed; {self._what} {number} was requested.")
            if self._prefetch == 0:
                try:
                    return self._make([number])[0]
                except Exception as error:
                    return error
            self._move_window(number, number + 1 + self._prefetch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
                # A daemon thread inside XLA can abort the process while the interpreter shuts down.
                atexit.register(self.close)
                self._thread.start()
            self._changed.wait_for(lambda: number in self._ready or self._is_closed)
            if number not in self._ready:
                raise RuntimeError(f"the loader was closed while {self._what} {number} was being read.")
            result = self._ready[number]
            self._move_window(number + 1, number + 1 + self._prefetch)
            return result

    def _move_window(self, start: int, stop: int) -> None:
        self._window = range(start, stop if self._end is None else min(stop, self._end))
        self._ready = {number: result for number, result in self._ready.items() if number in self._window}
        self._changed.notify_all()

    def _next_missing(self) -> list[int]:
        """The next numbers to compute: neighbours, so that all of them are needed soon."""
        missing = [number for number in self._window if number not in self._ready]
        return [
            number for place, number in enumerate(missing[: self._at_once]) if number == missing[0] + place
        ]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._next_missing())
                if self._is_closed:
                    return
                numbers = self._next_missing()
            results = self._results(numbers)
            with self._changed:
                for number, result in zip(numbers, results, strict=True):
                    if number in self._window:
                        self._ready[number] = result
                self._changed.notify_all()

    def _results(self, numbers: list[int]) -> Sequence[Batch | BaseException]:
        try:
            return self._make(numbers)
        except BaseException as error:  # of any type: the caller must get it instead of waiting forever
            if len(numbers) == 1:
                return [error]
        return [result for number in numbers for result in self._results([number])]

    def close(self) -> None:
        """End the thread, wait for it, and drop what was read ahead."""
        with self._changed:
            self._is_closed = True
            self._ready = {}
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            atexit.unregister(self.close)
