"""Where `transformers` puts the code of a model before it runs it."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator

CODE_PACKAGE = "transformers_modules"


@contextlib.contextmanager
def temporary_code_cache(transformers) -> Iterator[None]:
    """Context in which the code of models goes to a temporary folder.

    Its usual place, below HOME or HF_HOME, may be read-only, as in many containers and batch jobs. A check
    should leave nothing there anyway.
    """
    module = transformers.dynamic_module_utils
    usual = module.HF_MODULES_CACHE
    with tempfile.TemporaryDirectory(prefix="model-code-") as folder:
        module.HF_MODULES_CACHE = folder
        try:
            yield
        finally:
            module.HF_MODULES_CACHE = usual
            sys.path[:] = [path for path in sys.path if path != folder]
            for name in [name for name in sys.modules if name.partition(".")[0] == CODE_PACKAGE]:
                del sys.modules[name]
