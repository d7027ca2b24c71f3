"""How a job is spread over machines."""

from typing import Self

from pydantic import Field, model_validator

from pipelines.config.section import Section


class RunConfig(Section):
    """How the work is spread over machines. Nothing here but unit_rows changes the output files."""

    unit_rows: int = Field(256, ge=1, description="Most rows of one work unit = one output file.")
    actors: int = Field(1, ge=1, description="Engines side by side, each in its own process.")
    max_actors: int | None = Field(
        None,
        ge=1,
        description="Most engines: the run starts with `actors` and grows up to this while units wait and "
        "the cluster has room, and shrinks in the tail; none: always `actors`.",
    )
    cpus_per_actor: float = Field(
        1.0, gt=0, description="CPUs that Ray reserves for each, for all ranks of model.tensor_parallel."
    )
    gpus_per_actor: float | None = Field(
        None,
        ge=0,
        description="GPUs that Ray reserves for each; none: model.tensor_parallel, which is 1, on cuda, "
        "0 on cpu.",
    )
    threads_per_actor: int | None = Field(
        None,
        ge=1,
        description="Torch threads of each, shared by its ranks; none: cpus_per_actor rounded down, at "
        "least 1.",
    )
    calls_in_flight: int | None = Field(
        None, ge=1, description="Units an actor works on at once; none: enough to keep its engine full."
    )
    retries: int = Field(
        3,
        ge=0,
        description="Deaths of actors in a row, without a finished unit between them, that are repaired.",
    )
    max_error_share: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="Most error rows of all rows; with more of them the rows are written, but the run fails. "
        "1.0: any number.",
    )
    progress_every_s: float = Field(10.0, gt=0, description="Seconds between progress lines.")
    ray_address: str | None = Field(
        None, description="Cluster to join; none: a running one or a new local one; local: always new."
    )
    dedup: bool = Field(
        False,
        description="Generate rows with the same prompt tokens, sampling options, seed and sample once for "
        "each actor and give all of them its text; counters of a copy are those of its original.",
    )
    dedup_tokens: int = Field(
        1_000_000,
        ge=0,
        description="Tokens of finished completions that an actor keeps for copies, about 70 bytes each.",
    )
    group_prefixes: bool = Field(
        True,
        description="Rows of a unit enter the engine in the order of their prompts' tokens, so that those "
        "that begin alike find the beginning in the cache; the output keeps its order.",
    )
    drain_s: float = Field(
        300.0,
        ge=0,
        description="Seconds that units in progress get to finish after SIGTERM or Ctrl-C; then all stops.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port at which a local Ray offers its metrics to Prometheus; none: any free one. "
        "A cluster has its own.",
    )
    step_timeout_s: float = Field(
        600.0,
        gt=0,
        description="Seconds after which a step of an engine is taken to hang: its process is ended, and a "
        "new one does its units again. Loading and compiling at the start do not count.",
    )

    @property
    def pool(self) -> str:
        """How many engines, in words."""
        return f"{self.actors}" if self.most_actors == self.actors else f"{self.actors} to {self.most_actors}"

    @property
    def most_actors(self) -> int:
        """Engines that there may be at once."""
        return self.max_actors or self.actors

    @model_validator(mode="after")
    def _most_is_at_least_actors(self) -> Self:
        if self.most_actors < self.actors:
            raise ValueError(f"must have max_actors >= actors, got {self.max_actors} and {self.actors}")
        return self
