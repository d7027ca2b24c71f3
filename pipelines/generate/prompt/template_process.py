"""Filling Jinja templates, the checkpoint's chat template among them, in a process of its own, which a
runaway template ends without harm to others.

Jinja's sandbox keeps a template away from Python's insides, but not from `{{ 'a' * 10**9 }}` or loops without
end, and neither can be stopped from within the process. So the process that fills templates has limits on
memory and on the CPU time of each row, set by the kernel; when a row ends it, the next row starts another.

This file is also that process's program: it imports nothing of the project.
"""

import contextlib
import pickle
import signal
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any

from jinja2 import StrictUndefined, TemplateRuntimeError, Undefined, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context, TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 2**29  # beyond what Python and Jinja take
LONGEST_TEXT = 4_000_000  # characters beyond the row's own; tokenized in a second or two
LENGTH = struct.Struct("<?Q")  # whether the row was filled, bytes that follow


class TemplateRowError(Exception):
    """A row that could not be filled, and why."""


class TemplateProcess:
    """Fills one template for one row after the other; starts when the first row comes."""

    def __init__(self, template: str | None, limit_s: float):
        """What to fill, and how long.

        Args:
            template: over a row's columns and `row`, all of them; None: `fill` gets the arguments of
                transformers' render_jinja_template instead of a row, the chat template among them.
            limit_s: CPU time that a row may take.
        """
        self._template = template
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None

    def fill(self, row: Mapping[str, Any]) -> str:
        """The template's text for a row.

        Raises:
            TemplateRowError: the template raises on this row, takes too long or needs too much memory.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, True, pickle.dumps(dict(row)))
            is_filled, content = _receive(process.stdout)
        except (OSError, EOFError):
            raise TemplateRowError(self._why_it_ended(process)) from None
        text = content.decode("utf-8", "surrogatepass")
        if not is_filled:
            raise TemplateRowError(text)
        return text

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-P", __file__]  # -P: this folder's modules must not hide the library's
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        _send(process.stdin, True, pickle.dumps((self._template, self._limit_s)))
        self._process = process
        weakref.finalize(self, _end, process)
        return process

    def _why_it_ended(self, process: "subprocess.Popen[bytes]") -> str:
        self._process = None
        _end(process)
        if process.returncode == -signal.SIGPROF:
            return f"takes more than {self._limit_s:g} s; see input.prompt.template_limit_s"
        return f"its process ended with code {process.returncode}"


def _end(process: "subprocess.Popen[bytes]") -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was not sent yet has no reader
                stream.close()
    process.wait()


class HarmlessCompiler(CodeGenerator):
    """Evaluates no option of a block (`{% autoescape 9 ** 9 ** 9 %}`): it is what rows will say."""

    def visit_EvalContextModifier(self, node: nodes.EvalContextModifier, frame: Frame) -> None:  # noqa: N802, Jinja's name
        """Write the options; Jinja itself also looks whether they are constant."""
        frame.eval_ctx.volatile = True
        for option in node.options:
            self.writeline(f"context.eval_ctx.{option.key} = ")
            self.visit(option.value, frame)


def new_environment() -> ImmutableSandboxedEnvironment:
    """Jinja without evaluation at compile time: compiling must be harmless, whatever the constants are."""
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, optimized=False, finalize=_printable
    )
    environment.code_generator_class = HarmlessCompiler
    return environment


@pass_context
def _printable(context: Context, value: Any) -> Any:
    """What is printed: no prompt should say None where a column is null, or <class 'range'> without one.

    It takes the context since Jinja evaluates constant output when it compiles, but not if what finalizes it
    wants the context.
    """
    if value is None:
        raise TemplateRuntimeError("it prints a null value; where that is meant, write {{ column or '' }}")
    if (callable(value) and not isinstance(value, Undefined)) or isinstance(value, TemplateReference):
        raise TemplateRuntimeError(
            f"it prints a part of Jinja, {value!r:.40}; a column of that name is row['its name']"
        )
    return value


def _send(stream: IO[bytes], flag: bool, content: bytes) -> None:
    stream.write(LENGTH.pack(flag, len(content)) + content)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[bool, bytes]:
    header = stream.read(LENGTH.size)
    if len(header) < LENGTH.size:
        raise EOFError
    flag, count = LENGTH.unpack(header)
    content = stream.read(count)
    if len(content) < count:
        raise EOFError
    return flag, content


def _row_filler(template: str) -> Callable[[dict[str, Any]], str]:
    compiled = new_environment().from_string(template)
    return lambda row: compiled.render({"row": row, **row})


def _chat_filler() -> Callable[[dict[str, Any]], str]:
    from transformers.utils.chat_template_utils import render_jinja_template

    return lambda arguments: render_jinja_template(**arguments)[0][0]


def _fill(filler: Callable[[dict[str, Any]], str], request: bytes) -> tuple[bool, str]:
    try:
        text = filler(pickle.loads(request))
    except MemoryError:
        return False, f"needs more than {MEMORY_BYTES // 2**20} MiB"
    except Exception as error:  # whatever a template raises is about this row
        return False, " ".join(f"{type(error).__name__}: {error}".split())[:1000]
    if len(text) > len(request) + LONGEST_TEXT:
        return False, f"makes a text of {len(text)} characters, {LONGEST_TEXT} more than it is given"
    return True, text


def _limit_memory() -> None:
    """Bound the address space; an allocation beyond it raises MemoryError."""
    import resource

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = used + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == -1 else min(limit, hard), hard))


def _serve() -> None:
    """Fill rows until there are no more; the kernel ends the process when a row takes too long."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    template, limit_s = pickle.loads(_receive(requests)[1])
    filler = _chat_filler() if template is None else _row_filler(template)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    _limit_memory()
    while True:
        try:
            request = _receive(requests)[1]
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        is_filled, text = _fill(filler, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(answers, is_filled, text.encode("utf-8", "surrogatepass"))


if __name__ == "__main__":
    _serve()
