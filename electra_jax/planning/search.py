"""Search for the execution with which a batch fits a device at least cost.

An execution is the number of microbatches, the form of the layers, the rematerialisation policy and the
number of devices that share the parameters. From the cheapest choice to the dearest: more microbatches, as
long as each has enough tokens to keep the device busy; unrolled instead of scanned layers, which take several
times as long to compile; more recomputation in the backward pass; parameters sharded over more devices, which
must then be gathered in every layer.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from electra_jax.distributed.sharding import UnevenShardsError
from electra_jax.models.execution import REMAT
from electra_jax.planning.compiled import CompiledStep, DoesNotFitError

LAYERS = ("scanned", "unrolled")  # the faster to compile first
ENOUGH_TOKENS = 4096  # in a microbatch on one device: with fewer, fixed costs show


class Form(NamedTuple):
    """How layers run: two keys of config.train."""

    layers: str
    remat: str


class CompileTrial(NamedTuple):
    """One compilation of a candidate configuration."""

    config: dict[str, Any]
    step: CompiledStep | None  # None: it does not fit
    refusal: DoesNotFitError | None  # None: it fits

    @property
    def bytes_needed(self) -> int:
        """Bytes on each device."""
        return self.refusal.needed if self.step is None else self.step.memory.total


def with_execution(
    config: dict[str, Any], form: Form, num_microbatches: int, sizes: dict[str, int]
) -> dict[str, Any]:
    """`config` with this execution. sizes: of the mesh's axes data and fsdp."""
    train = config["train"] | form._asdict() | {"num_microbatches": num_microbatches}
    return config | {"train": train, "mesh": config["mesh"] | sizes}


def search(
    config: dict[str, Any],
    num_shards: int,
    compile_candidate: Callable[[dict[str, Any]], CompiledStep],
    layers: Sequence[str] = LAYERS,
) -> Iterator[CompileTrial]:
    """Compile candidates from the cheapest on; `best_trial` selects from them.

    For each sharding of the parameters and each form, the smallest microbatch worth its fixed costs decides
    whether any microbatch fits. If it does, the number of microbatches is halved, and beyond one the batch is
    doubled, until the compiler refuses; scanned layers without recomputation are then unrolled, once. Numbers
    of devices that do not divide the parameters are left out.

    Args:
      num_shards: devices that can share the batch and the parameters: all of them ÷ config.mesh.tensor.
      compile_candidate: compiles a configuration, or raises DoesNotFitError.
      layers: the values of config.train.layers to try. Recomputation is tried with the first one only.

    Raises:
      ValueError: the devices cannot share the batch, or nothing fits.
      UnevenShardsError: the tensor axis does not divide the model.
    """

    def try_out(form: Form, fsdp: int, num_microbatches: int, growth: int = 1) -> CompileTrial:
        sizes = {"data": num_shards // fsdp, "fsdp": fsdp}
        candidate = with_execution(config, form, num_microbatches, sizes)
        candidate["train"]["batch_size"] *= growth
        try:
            return CompileTrial(candidate, compile_candidate(candidate), None)
        except DoesNotFitError as refusal:
            return CompileTrial(candidate, None, refusal)

    most = most_microbatches(config, num_shards)
    forms = [Form(kind, REMAT[0]) for kind in layers] + [Form(layers[0], remat) for remat in REMAT[1:]]
    largest = 1
    for fsdp in (size for size in range(1, num_shards + 1) if num_shards % size == 0):
        for index, form in enumerate(forms):
            try:
                trial = try_out(form, fsdp, most)
            except UnevenShardsError:
                if fsdp == 1:
                    raise
                break
            largest = fsdp
            yield trial
            if trial.step is None:
                continue
            left = [each for each in forms[index:] if each.remat == form.remat]
            for execution in _larger(config["train"]["batch_size"] // num_shards, most):
                trial = try_out(left[0], fsdp, *execution)
                yield trial
                while trial.step is None and left[1:]:
                    del left[0]
                    trial = try_out(left[0], fsdp, *execution)
                    yield trial
                if trial.step is None:
                    return
    raise ValueError(
        f"nothing fits: not even {config['train']['batch_size'] // most // num_shards} rows a device with "
        f"layers recomputed and config.mesh.fsdp={largest}. Take more or larger devices, shorter rows, "
        "or --config.objective.vocab_chunk_size=16384."
    )


def best_trial(config: dict[str, Any], trials: Sequence[CompileTrial]) -> CompileTrial:
    """The trial with the batch of `config` that fits in the fewest microbatches."""
    batch_size = config["train"]["batch_size"]
    fitting = [trial for trial in trials if trial.step is not None]
    return [trial for trial in fitting if trial.config["train"]["batch_size"] == batch_size][-1]


def _larger(rows: int, num_microbatches: int) -> Iterator[tuple[int, int]]:
    """(number of microbatches, growth of the batch), each microbatch at least twice as large as the last.

    `rows`: of the configured batch on one of the devices that share it.
    """
    while num_microbatches > 1:
        num_microbatches = max(number for number in range(1, num_microbatches // 2 + 1) if rows % number == 0)
        yield num_microbatches, 1
    for power in itertools.count(1):
        yield 1, 2**power


def most_microbatches(config: dict[str, Any], num_shards: int) -> int:
    """The largest number of microbatches with ENOUGH_TOKENS in each, or 1 where the batch has fewer.
    num_shards: as for `search`.

    Raises:
      ValueError: the devices cannot share the batch.
    """
    batch_size, length = config["train"]["batch_size"], config["data"]["sequence_length"]
    rows, rest = divmod(batch_size, num_shards)
    if rest:
        raise ValueError(
            f"config.train.batch_size: got {batch_size}, expected a multiple of {num_shards}, the number of "
            "devices ÷ config.mesh.tensor. Change it, or --device."
        )
    return max(
        number
        for number in range(1, rows + 1)
        if rows % number == 0 and (number == 1 or rows // number * length >= ENOUGH_TOKENS)
    )
