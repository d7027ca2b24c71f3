"""Rules about what runs in the pods: images, commands, configs, each read by the code that will read it."""

import argparse
import contextlib
import functools
import importlib.util
import io
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from infra.docker.dockerfile import Dockerfile, read_dockerfile
from infra.validate.bundle import Bundle, JobSpec, Pod, quantity
from infra.validate.job_rules import stop_wait_s
from infra.validate.pod_rules import pre_stop_limit_s
from orthrus_core.errors import ConfigError
from pipelines.cluster.resources import gpus_per_actor

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "infra/docker/Dockerfile"
SHELL = re.compile(r"\$\([^)]*\)")


class _ParsedError(Exception):
    """Carries what a program's parser made of its arguments, so that the program goes no further."""


def images_are_built_here(bundle: Bundle) -> Iterator[str]:
    """Every image is a target of the Dockerfile by its tag, and GPUs and the CUDA image go together."""
    for pod in bundle.pods:
        for container in pod.containers:
            target = target_of(container)
            if target not in ("cpu", "cuda"):
                yield f"{pod.where}: the tag of {container['image']} must end with -cpu or -cuda"
            limits = (container.get("resources") or {}).get("limits") or {}
            if ("nvidia.com/gpu" in limits) != (target == "cuda"):
                yield f"{pod.where}: {container['image']} must be -cuda where there is a GPU, and only there"


def commands_parse(bundle: Bundle) -> Iterator[str]:
    """Programs are in the image that runs them, and take their arguments."""
    image = read_dockerfile(DOCKERFILE)
    for pod, command in commands(bundle):
        target = target_of(pod.containers[0])
        try:
            parse_command(command, image, target)
        except ValueError as error:
            yield f"{pod.where}: {error}"


def configs_load(bundle: Bundle) -> Iterator[str]:
    """The config of every job is mounted where its entrypoint looks, loads, and fits the cluster."""
    for job in bundle.jobs:
        yield from _config_faults(bundle, job)


def _config_faults(bundle: Bundle, job: JobSpec) -> Iterator[str]:
    image = read_dockerfile(DOCKERFILE)
    try:
        program, options = parse_command(job.spec.get("entrypoint", ""), image, "cpu")
        text = mounted_config(bundle, job, options.config)
        config = load(program, text, options.set)
    except (ValueError, ConfigError) as error:
        yield f"{job.where}: {error}"
        return
    yield from (f"{job.where}: {fault}" for fault in misfits(job, config, image))


def templates_are_there(bundle: Bundle) -> Iterator[str]:
    """A CronJob copies a RayJob that is there and suspended, and whose config takes the options it adds."""
    image = read_dockerfile(DOCKERFILE)
    for pod, command in commands(bundle):
        if pod.role != "scheduler":
            continue
        with contextlib.suppress(ValueError):  # `commands_parse` tells
            options = parse_command(command, image, "cpu")[1]
            job = bundle.named("RayJob").get(options.template)
            if job is None or job["spec"].get("suspend") is not True:
                yield f"{pod.where}: --template {options.template} must be a RayJob with suspend: true"
                continue
            added = "".join(f" --set {shlex.quote(option)}" for option in options.set)
            spec = {**job["spec"], "entrypoint": job["spec"]["entrypoint"] + added}
            yield from _config_faults(bundle, JobSpec(pod.where, spec))


def commands(bundle: Bundle) -> Iterator[tuple[Pod, str]]:
    """Every command line of this project's programs, with a pod that has its image."""
    for pod in bundle.pods:
        if pod.role == "head" and pod.job is not None:
            yield pod, pod.job.spec.get("entrypoint", "")
        for container in pod.containers:
            if container.get("command"):
                yield pod, shlex.join([*container["command"], *container.get("args", [])])
            pre_stop = ((container.get("lifecycle") or {}).get("preStop") or {}).get("exec") or {}
            if pre_stop.get("command"):
                yield pod, shlex.join(pre_stop["command"])


def target_of(container: dict[str, Any]) -> str:
    """The Dockerfile's target that a container's image was built from, by its tag."""
    return container["image"].rpartition("-")[2]


def parse_command(command: str, image: Dockerfile, target: str) -> tuple[str, argparse.Namespace]:
    """Program and options of `python PATH ...` or `python -m MODULE ...`, by the program's own parser.

    Args:
        command: `$(...)` in it stands for any text.
    Returns:
        The program's path in this repository, and what its parser made of the rest.
    Raises:
        ValueError: it is no such command, the program is not in the image, or it refuses the arguments.
    """
    words = shlex.split(SHELL.sub("EXPANDED", command))
    if words[:2] == ["python", "-m"] and len(words) > 2:
        inside, rest = f"/app/{words[2].replace('.', '/')}.py", words[3:]
    elif words[:1] == ["python"] and len(words) > 1:
        inside, rest = words[1], words[2:]
    else:
        raise ValueError(f"command must be python PATH ... or python -m MODULE ..., got {command!r}")
    source = in_repository(inside, image, target)
    if source is None or not source.is_file():
        raise ValueError(f"{inside} is not in the image {target}")
    return str(source.relative_to(ROOT)), own_parser(source, tuple(rest))


def in_repository(inside: str, image: Dockerfile, target: str) -> Path | None:
    """Where a path of an image comes from; None if no COPY line brings it."""
    copied = image.copied(target) if target in image.stages else {}
    for to, source in copied.items():
        if inside == to or inside.startswith(f"{to}/"):
            return ROOT / source / inside[len(to) :].lstrip("/")
    return None


@functools.cache
def own_parser(program: Path, arguments: tuple[str, ...]) -> argparse.Namespace:
    """What a program's `main` makes of arguments; it is left as soon as they are parsed.

    Raises:
        ValueError: it refuses them.
    """
    spec = importlib.util.spec_from_file_location(f"program_{program.stem}", program)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parse = argparse.ArgumentParser.parse_args

    def leave(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        raise _ParsedError(parse(self, *args, **kwargs))

    said = io.StringIO()
    try:
        with (
            mock.patch.object(argparse.ArgumentParser, "parse_args", leave),
            contextlib.redirect_stderr(said),
        ):
            module.main(list(arguments))
    except _ParsedError as parsed:
        return parsed.args[0]
    except SystemExit:
        raise ValueError(f"{program.name}: {said.getvalue().strip().splitlines()[-1]}") from None
    raise ValueError(f"{program.name} does not parse its arguments")


def mounted_config(bundle: Bundle, job: JobSpec, path: str) -> str:
    """Text of a config file as the head pod sees it.

    Raises:
        ValueError: no ConfigMap of the bundle is mounted there, or it has no such file.
    """
    spec = (job.head.get("template") or {}).get("spec") or {}
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    directory, _, name = path.rpartition("/")
    for mount in spec["containers"][0].get("volumeMounts", []):
        if mount["mountPath"] == directory:
            source = (volumes.get(mount["name"], {}).get("configMap") or {}).get("name", "")
            files = bundle.named("ConfigMap").get(source, {}).get("data") or {}
            if name in files:
                return files[name]
    raise ValueError(f"no ConfigMap brings {path} into the head pod")


def load(program: str, text: str, overrides: list[str]) -> Any:
    """A job's config, read by the loader that the job itself uses.

    Raises:
        ConfigError: as the job would say it.
        ValueError: the program has no config that is known here.
    """
    from pipelines.command.config_file import load_config
    from pipelines.generate.config.job import GenerateConfig
    from pipelines.train.config import load_train_config

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        if program == "jobs/generate.py":
            return load_config(GenerateConfig, file.name, overrides)
        if program == "jobs/train.py":
            return load_train_config(file.name, overrides)
    raise ValueError(f"{program} is none of jobs/generate.py, jobs/train.py")


def misfits(job: JobSpec, config: Any, image: Dockerfile) -> Iterator[str]:
    """What a config asks for and the cluster does not have."""
    paths = [("output.path", str(config.output.path))]
    if hasattr(config, "input"):
        paths += [("model.path", config.model.path)]
        paths += [("input.paths", path) for path in config.input.paths]
        yield from _engines_fit(job, config)
        least = config.run.drain_s + 10
        if stop_wait_s(job) < least:
            yield f"RAY_JOB_STOP_WAIT_TIME_S must be >= run.drain_s + 10 = {least:g}"
        for group in (job.head, *job.workers):
            limit = pre_stop_limit_s(group["template"]["spec"]["containers"][0])
            if limit < least:
                yield f"preStop's --limit-s must be >= run.drain_s + 10 = {least:g}, got {limit:g}"
    elif hasattr(config, "backbone") and not hasattr(config.backbone, "model_fields"):
        paths += [("backbone", str(config.backbone))]
    for name, path in paths:
        yield from _path_faults(name, path, image)


def _engines_fit(job: JobSpec, config: Any) -> Iterator[str]:
    """The actors of a generate job have a place in the worker groups when these are full grown."""
    if config.model.device == "auto":
        yield "model.device must be cpu or cuda: with no worker at the start, auto is cpu"
    gpus = gpus_per_actor(config.run, config.model.device, config.model.tensor_parallel)
    places = 0.0
    for group in job.workers:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        by_cpu = quantity(limits.get("cpu", 0)) // config.run.cpus_per_actor
        by_gpu = quantity(limits.get("nvidia.com/gpu", 0)) // gpus if gpus else by_cpu
        places += group.get("maxReplicas", 2**31) * min(by_cpu, by_gpu)
    if places < config.run.actors:
        yield f"run.actors={config.run.actors} do not fit: full grown worker groups hold {places:g}"


def _path_faults(name: str, path: str, image: Dockerfile) -> Iterator[str]:
    """A path is a URL, a hub id, or something that the images hold."""
    if "://" in path or re.match(r"s3:/[^/]", path):
        return
    if name in ("model.path", "backbone") and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        return
    source = in_repository(path, image, "cpu")
    found = source is not None and (any(source.parent.glob(source.name)) if "*" in path else source.exists())
    if name == "output.path" or not found:
        yield f"{name} {path} must be a URL that every pod reaches, or a path of the images"


COMMAND_RULES: tuple[Callable[[Bundle], Iterator[str]], ...] = (
    images_are_built_here,
    commands_parse,
    configs_load,
    templates_are_there,
)
