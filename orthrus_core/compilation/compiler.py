"""Getting torch's compiler ready: its cache in a place that lasts, its slow questions asked beforehand."""

import contextlib
import logging
import os
import threading

from orthrus_core.disk_cache import disk_cache, processor_key

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def get_compiler_ready() -> None:
    """Import the compiler and let a thread find out what the processor's vector units are.

    Torch asks that by compiling and running small programs: 5 s the first time, 1 s later on, nearly all of
    it spent waiting, in which a model can be loaded and traced. It is a head start and nothing else: what
    fails here is asked again, and reported, where it is needed.
    """
    keep_compiled_code()
    with contextlib.suppress(Exception):
        from torch._inductor import compile_fx, cpu_vec_isa  # noqa: F401

        threading.Thread(
            target=_quietly, args=(cpu_vec_isa.valid_vec_isa_list,), name="vector-units", daemon=True
        ).start()


def keep_compiled_code() -> None:
    """Have torch keep what it compiles in the user's cache, unless the user named a place.

    Its own choice is the directory for temporary files, which the next boot finds empty.
    """
    if CACHE_VARIABLE in os.environ:
        return
    directory = disk_cache("inductor") / processor_key()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.info("compiled code is kept for this boot only: %s", error)
        return
    if os.access(directory, os.W_OK):
        os.environ[CACHE_VARIABLE] = str(directory)


def _quietly(question) -> None:
    with contextlib.suppress(Exception):
        question()
