"""Readable synthetic tasks with answers that can be checked."""

from pipelines.demo.tasks.generator import KINDS, generate_task, generate_tasks, split_of
from pipelines.demo.tasks.task import Task, is_right

__all__ = ["KINDS", "Task", "generate_task", "generate_tasks", "is_right", "split_of"]
