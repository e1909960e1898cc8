"""Compilation for an absent TPU and an absent GPU."""

import json
import re

import pytest

from electra_jax.benchmarks.compiled_memory import score_buffers, vocabulary_rows
from electra_jax.distributed.absent_devices import GPUS, absent_devices
from electra_jax.distributed.chips import CHIPS, chip_of
from support import aside
from support.commands import run_module, run_python


def test_vocabulary_rows_reads_every_array_of_a_program():
    text = """
    %fusion.1 = (f32[8,80,128100]{2,1,0:T(8,128)}, s32[640]{0}) fusion(bf16[128100,384]{1,0} %p0), kind=kLoop
    %copy.2 = f32[81,128100]{1,0} copy(f32[1281000,8]{1,0} %p1)
    """
    assert vocabulary_rows(text, 128_100) == 640
    assert vocabulary_rows(text.replace("f32[81,", "f32[8,512,"), 128_100) == 4_096
    assert vocabulary_rows(text, 999) == 0


def test_score_buffers_are_those_of_every_query_and_key():
    text = (
        "%a = f32[8,6,512,512]{3,2,1,0} fusion(bf16[8,512,384]{2,1,0} %b, f32[6,8,512,1024] %c, s32[512] %d)"
        "%e = bf16[48,512,512]{2,1,0} fusion(f32[24576,512] %f, f32[8,512,512] %g)"
    )
    assert score_buffers(text, 8 * 6, 512) == {"8,6,512,512", "6,8,512,1024", "48,512,512", "24576,512"}
    assert not score_buffers(text, 8 * 13, 512) and not score_buffers(text, 8 * 6, 1025)


def test_an_unknown_device_is_rejected():
    with pytest.raises(
        ValueError, match=r"^--device: got 'v9z:1x1', which cannot be compiled for here: .*compile_only\.sh"
    ):
        absent_devices("v9z:1x1")


@pytest.mark.parametrize(
    "name",
    [
        "h100:0",
        "h100:12",
        "h100:2x0",
        "h100:x8",
        "h100:2x2x2",
        "l4:x",
        "cpu:0",
        "cpu:-1",
        "v5e",
        "v5e:",
        "v5e:0x0",
        "v5e:4",
        "v5e:2*2",
    ],
)
def test_a_number_or_topology_that_is_none_is_rejected(name):
    with pytest.raises(
        ValueError, match=rf"^--device: got '{re.escape(name)}': .* behind the colon, expected"
    ) as caught:
        absent_devices(name)
    assert "pip install" not in str(caught.value)  # compilers are not what is missing


def test_gpus_are_compiled_for_as_the_table_of_chips_describes_them():
    for name, target in GPUS.items():
        chip = CHIPS[name]
        assert chip_of(target.name) is chip
        assert chip.memory == pytest.approx(0.9 * target.memory, rel=1e-3)
        assert chip.bandwidth == pytest.approx(target.bandwidth, rel=0.01)
    assert set(CHIPS) - set(GPUS) == {"v4", "v5e", "v5p", "v6e", "tpu7x", "cpu"}


TOPOLOGIES = """
from electra_jax.distributed.absent_devices import GPUS, absent_devices
for name in ("h100:16", "h100:2x4"):
    devices = absent_devices(name)
    print("hosts", len(devices), len({device.process_index for device in devices}))
for name in (*(f"{gpu}:2" for gpu in GPUS), "v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"):
    devices = absent_devices(name)
    print(name, len(devices), devices[0].device_kind, sep="|")
"""


@pytest.mark.slow
def test_every_chip_has_a_compiler_that_calls_it_by_its_name():
    outcome = run_python("-c", TOPOLOGIES, environment=aside.environment("compilers"), timeout=600)
    assert outcome.returncode == 0, outcome.stderr
    rows = [line.split("|") for line in outcome.stdout.splitlines() if line.count("|") == 2]
    assert len(rows) == len(CHIPS) - 1
    assert "hosts 16 2" in outcome.stdout and "hosts 8 2" in outcome.stdout
    for device, number, kind in rows:
        name = device.partition(":")[0]
        assert chip_of(kind) is CHIPS[name]
        # Four chips of a TPU: on v4 one device each, on TPU7x two.
        assert int(number) == (2 if name in GPUS else 4 * CHIPS[name].devices_per_chip)


KERNELS = """
import functools
import re

from electra_jax.benchmarks.compiled_memory import compile_layer, score_buffers
from electra_jax.benchmarks.relative_attention import LAYERS
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.distributed.absent_devices import absent_devices
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.disentangled_attention import DisentangledSelfAttention

LAYERS["auto"] = functools.partial(DisentangledSelfAttention, form="auto")
model = with_assumed_sizes(load_config("configs/deberta_v3.py:size=xsmall").to_dict())["model"]
# Two heads, as many as a TPU's kernel computes together. Rows are longer than the hidden size.
model["embedding_size"] = 128
for encoder in ("generator", "discriminator"):
    model[encoder] |= {"hidden_size": 128, "num_heads": 2}
for name, dtype, length, form in (
    ("v5e:1x1", "bfloat16", 512, "auto"),
    ("v5p:2x2x1", "bfloat16", 160, "auto"),
    ("v6e:1x1", "bfloat16", 640, "auto"),  # a loop over chunks of keys
    ("v5e:1x1", "float32", 160, "auto"),
    ("h100:1", "bfloat16", 512, "pallas"),
    ("l4:1", "bfloat16", 512, "pallas"),  # a block has 99 KiB of shared memory instead of 227
    ("h100:1", "bfloat16", 160, "auto"),  # they have not been timed on a GPU
):
    encoder = make_pretraining_config(model | {"dtype": dtype}).discriminator
    device = absent_devices(name)[0]
    text = compile_layer(encoder, form, device, batch_size=2, length=length).as_text()
    squares = score_buffers(text, 2 * encoder.num_heads, length)
    kernel = 'custom_call_target="(tpu_custom_call|__gpu.xla.gpu.triton|triton_kernel_call)'
    targets = re.findall(kernel, text)
    print("kernels", name, len(targets), sorted(squares) if targets else "plain", sep="|")
"""


@pytest.mark.slow
def test_deberta_attention_compiles_to_kernels():
    outcome = run_python("-c", KERNELS, environment=aside.environment("compilers"), timeout=1_200)
    assert outcome.returncode == 0, outcome.stderr
    found = [line.split("|")[1:] for line in outcome.stdout.splitlines() if line.startswith("kernels|")]
    tpus = ("v5e:1x1", "v5p:2x2x1", "v6e:1x1", "v5e:1x1")
    # One kernel forward; backward one on TPUs, three on GPUs.
    expected = [*([name, "2", "[]"] for name in tpus), *([name, "4", "[]"] for name in ("h100:1", "l4:1"))]
    assert found == [*expected, ["h100:1", "0", "plain"]]


LONG_ROWS = """
from electra_jax.benchmarks.compiled_memory import score_buffers
from electra_jax.benchmarks.long_rows import compile_attention
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.distributed.absent_devices import absent_devices
from electra_jax.models.config import make_pretraining_config

model = with_assumed_sizes(load_config("configs/modernbert.py:size=17m").to_dict())["model"]
model["embedding_size"] = 128
for encoder in ("generator", "discriminator"):
    model[encoder] |= {"hidden_size": 128, "num_heads": 2}
for name, dtype, length, is_global in (
    ("v5e:1x1", "bfloat16", 2048, True),  # above LONGEST_WHOLE: JAX's kernels
    ("v5e:1x1", "float32", 2048, True),  # which would round it
    ("v5e:1x1", "bfloat16", 1024, True),
    ("v5p:2x2x1", "bfloat16", 600, True),  # padded to 640
    ("v6e:1x1", "bfloat16", 512, True),
    ("v5e:1x1", "float32", 1024, True),
    ("v5e:1x1", "bfloat16", 8192, False),  # the longest
    ("v6e:1x1", "bfloat16", 512, False),
    ("v5e:1x1", "float32", 8192, False),
):
    encoder = make_pretraining_config(model | {"dtype": dtype}).discriminator
    text = compile_attention(encoder, is_global, "auto", absent_devices(name)[0], 1, length).as_text()
    has_scores = len(score_buffers(text, encoder.num_heads, length)) > 0
    print("kernels", name, dtype, text.count('custom_call_target="tpu_custom_call'), has_scores, sep="|")
"""


@pytest.mark.slow
def test_attention_of_long_rows_compiles_to_kernels():
    outcome = run_python("-c", LONG_ROWS, environment=aside.environment("compilers"), timeout=1_200)
    assert outcome.returncode == 0, outcome.stderr
    found = [line.split("|")[1:] for line in outcome.stdout.splitlines() if line.startswith("kernels|")]
    # One kernel forward; backward two of JAX's, one of ours.
    of_jax = [["v5e:1x1", "bfloat16", "3", "False"], ["v5e:1x1", "float32", "0", "False"]]
    v5e, v5p, v6e, in_float32 = (
        [name, dtype, "2", "False"]
        for name, dtype in (
            ("v5e:1x1", "bfloat16"),
            ("v5p:2x2x1", "bfloat16"),
            ("v6e:1x1", "bfloat16"),
            ("v5e:1x1", "float32"),
        )
    )
    assert found == [*of_jax, v5e, v5p, v6e, in_float32, v5e, v6e, in_float32]


@pytest.mark.slow
def test_the_step_of_deberta_v3_compiles_for_v5e_and_h100_without_logits_of_every_token(tmp_path):
    # Small, since compilers for TPUs take longer the larger the arrays are; P = 10. Rows are longer than the
    # queries, keys and values of a token together, than 128 numbers, to which a TPU pads them, and than the
    # distances that have a bucket, so that what has L numbers in its last axis is a score.
    small = {"num_layers": 1, "hidden_size": 64, "num_heads": 1, "intermediate_size": 128}
    encoders = [
        f"--config.model.{encoder}.{key}={value}"
        for encoder in ("generator", "discriminator")
        for key, value in small.items()
    ]
    # As users compile it: a program that is not optimised copies more, and some forms more than others.
    environment = aside.environment("compilers")
    del environment["JAX_OPTIMIZATION_LEVEL"]
    outcome = run_module(
        "electra_jax.benchmark",
        "--suite=compiled",
        "--config=configs/deberta_v3.py:size=xsmall",
        "--config.model.vocab_size=65536",
        "--config.model.embedding_size=64",
        "--config.model.disentangled.position_buckets=64",
        "--config.model.disentangled.max_relative_positions=128",
        "--config.data.sequence_length=224",
        "--config.objective.mask_prob=0.04",
        *encoders,
        "--config.model.disentangled.enhanced_mask_decoder=False",
        f"--json={tmp_path / 'figures.json'}",
        environment=environment,
        timeout=1_200,
    )
    assert outcome.returncode == 0, outcome.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    for device in ("v5e:1x1", "h100:1"):
        temporary = {name: figures[f"{device}_step_{name}_temporary_mib"] for name in ("whole", "chunked")}
        rows = {name: figures[f"{device}_step_{name}_vocabulary_rows"] for name in temporary}
        assert rows["whole"] == 8 * 10 and rows["chunked"] == 64  # B·P; the embedding tables alone
        assert temporary["chunked"] < temporary["whole"]
        # Compared in one layer alone: the memory of a whole step depends on the compiler's schedule.
        layer = {
            form: figures[f"{device}_attention_{form}_temporary_mib"] for form in ("plain", "skew", "gather")
        }
        kernels = figures[f"{device}_attention_pallas_temporary_mib"]
        assert layer["skew"] < layer["gather"]
        if device == "h100:1":
            assert max(layer["plain"], kernels) < layer["skew"]
        else:  # its fast memory holds arrays as small as these
            assert max(layer["plain"], layer["skew"], kernels) < 0.1
