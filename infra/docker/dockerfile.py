"""Read a Dockerfile: its stages and their instructions, as far as this project's file uses the syntax."""

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction: name in capitals, the rest of the line with continuations joined, its first line."""

    name: str
    text: str
    line: int


@dataclass
class Stage:
    """What follows one FROM.

    Attributes:
        name: after AS.
        base: name of a stage, or an image.
        instructions: without FROM.
    """

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def texts(self, name: str) -> list[str]:
        """What follows every instruction of a name, in order."""
        return [instruction.text for instruction in self.instructions if instruction.name == name]


@dataclass(frozen=True)
class Dockerfile:
    """All stages by name, in the file's order, and the arguments before the first of them."""

    stages: dict[str, Stage]
    arguments: dict[str, str]

    def chain(self, target: str) -> list[Stage]:
        """A stage and those it is built on, the first one first."""
        chain = [self.stages[target]]
        while chain[0].base in self.stages:
            chain.insert(0, self.stages[chain[0].base])
        return chain

    def instructions(self, target: str) -> list[Instruction]:
        """All instructions that make an image, in order."""
        return [instruction for stage in self.chain(target) for instruction in stage.instructions]

    def environment(self, target: str) -> dict[str, str]:
        """ENV of an image, references to earlier values left as they are."""
        words = [text for i in self.instructions(target) if i.name == "ENV" for text in i.text.split()]
        return dict(word.split("=", 1) for word in words)

    def copied(self, target: str) -> dict[str, str]:
        """Paths of the build context in an image: absolute path in the image to path in the context."""
        places: dict[str, str] = {}
        directory = "/"
        for instruction in self.instructions(target):
            if instruction.name == "WORKDIR":
                directory = instruction.text
            if instruction.name == "COPY" and "--from=" not in instruction.text:
                *sources, to = [word for word in instruction.text.split() if not word.startswith("--")]
                places |= _places(sources, f"{directory}/{to}" if not to.startswith("/") else to, to)
        return places


def read_dockerfile(path: Path) -> Dockerfile:
    """Parse a Dockerfile.

    Raises:
        ValueError: a stage without a name, or an instruction before the first stage that is no ARG.
    """
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    for instruction in _instructions(path.read_text()):
        if instruction.name == "FROM":
            base, _, name = re.sub(r"^--\S+\s+", "", instruction.text).partition(" AS ")
            if not name:
                raise ValueError(f"{path}:{instruction.line}: FROM {base} must have a name (AS ...)")
            stages[name] = Stage(name, base)
        elif stages:
            next(reversed(stages.values())).instructions.append(instruction)
        elif instruction.name == "ARG":
            name, _, value = instruction.text.partition("=")
            arguments[name] = value
        else:
            raise ValueError(f"{path}:{instruction.line}: {instruction.name} stands before the first FROM")
    return Dockerfile(stages, arguments)


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    held: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        first = first if held else number
        held.append(line.strip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            name, _, rest = " ".join(held).partition(" ")
            found.append(Instruction(name.upper(), rest.strip(), first))
            held = []
    return found


def _places(sources: list[str], target: str, written: str) -> dict[str, str]:
    into_directory = written.endswith("/") or len(sources) > 1
    target = target.removesuffix("/.").removesuffix("./").rstrip("/")
    return {
        f"{target}/{Path(source).name}" if into_directory and source != "." else target: source
        for source in sources
    }
