"""Whether JAX finds the devices that JAX_PLATFORMS asks for."""

import jax


def check_platforms() -> None:
    """Start the devices that JAX_PLATFORMS names. Call it where a command may start them: with several
    processes once they have joined. Nothing is started where JAX chooses, or uses the CPU alone.

    Raises:
      ValueError: there are no such devices on this machine.
    """
    platforms = jax.config.jax_platforms
    if not platforms or platforms == "cpu":
        return
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # the first, without text, for GPUs
        reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
        raise ValueError(
            f"JAX_PLATFORMS: got {platforms!r}, but JAX finds no such device on this machine{reason}. Unset "
            "it, so that JAX chooses, set JAX_PLATFORMS=cpu, or install the JAX of this device: `pip install "
            "'jax[cuda13]'`, 'jax[cuda12]' or 'jax[tpu]'."
        ) from error
