"""The matrix products of lowered programs, and the programs that a piece of code compiles."""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

PRODUCT = re.compile(r"stablehlo\.dot_general .*: \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\)")
PRECISION = re.compile(r"precision = \[(\w+), (\w+)\]")


class Product(NamedTuple):
    """One matrix product."""

    dtypes: tuple[str, str]  # of its operands: "f32", "bf16"
    precisions: tuple[str, str]  # "DEFAULT", "HIGH", "HIGHEST"


HIGHEST = Product(("f32", "f32"), ("HIGHEST", "HIGHEST"))
ROUNDED = Product(("bf16", "bf16"), ("DEFAULT", "DEFAULT"))


def products(text: str) -> list[Product]:
    """The matrix products in the text of a lowered program (StableHLO)."""
    found = []
    for line in text.splitlines():
        if re.search(r"(stablehlo|chlo)\.(dot|convolution|ragged_dot)", line):
            precision = PRECISION.search(line)
            precisions = precision.groups() if precision else ("DEFAULT", "DEFAULT")
            found.append(Product(PRODUCT.search(line).groups(), precisions))
    return found


@contextlib.contextmanager
def recorded_programs(directory: Path) -> Iterator[list[str]]:
    """Context that collects the texts of all programs that are compiled in it; the list is filled at its
    end."""
    texts: list[str] = []
    jax.clear_caches()  # what is compiled already would not be seen
    jax.config.update("jax_dump_ir_to", str(directory))
    try:
        yield texts
    finally:
        jax.config.update("jax_dump_ir_to", "")
        texts += [path.read_text(encoding="utf-8") for path in sorted(directory.glob("*.mlir"))]


@contextlib.contextmanager
def rounded_products(mantissa_bits: int) -> Iterator[None]:
    """Context in which products of float32 arrays round their operands, as accelerators do by default: 7 bits
    are bfloat16's, 10 are those of TF32."""
    einsum = jnp.einsum
    rounded = functools.partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=mantissa_bits)
    jax.clear_caches()
    jnp.einsum = lambda spec, x, y, **options: einsum(spec, rounded(x), rounded(y), **options)
    try:
        yield
    finally:
        jnp.einsum = einsum
        jax.clear_caches()
