"""Files that a full disk, or a limit of their size, does not take: the error names the path and advice."""

import errno
import resource

import numpy as np
import pytest

from data_pipelines.array_files import save_array
from data_pipelines.command_errors import error_message
from data_pipelines.tokenizers.directory import write_directory
from data_pipelines.whole_files import write_bytes
from electra_jax.huggingface.array_files import write_arrays


@pytest.fixture
def full_disk():
    """No file may have more than a few bytes. Python ignores the signal, so that writing is an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_directory(path, {"spm.model": bytes(5000)}),
        lambda path: save_array(path, np.zeros(5000)),
        lambda path: write_bytes(path, bytes(5000)),
        lambda path: write_arrays(path, {"a": np.zeros(5000, np.float32)}),
    ],
    ids=["a tokenizer", "counts of tokens", "bytes", "weights"],
)
def test_the_error_names_the_path_and_what_to_do(write, tmp_path, full_disk):
    with pytest.raises(OSError) as caught:
        write(tmp_path / "made")
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    message = error_message(caught.value)
    assert message.startswith(f"error: {tmp_path / 'made'}: File too large. Raise the limit of the size of")
