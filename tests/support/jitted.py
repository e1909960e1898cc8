"""A module's outputs, compiled as one program."""

import jax


def apply_jitted(module, params, *arguments, **more):
    """`module.apply({"params": params}, …)`. Called as it is, it would compile each of its operations
    separately."""
    return jax.jit(lambda params: module.apply({"params": params}, *arguments, **more))(params)
