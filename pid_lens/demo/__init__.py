"""A small vision-language model trained on scanned digits, with tasks whose atoms are known."""

from pid_lens.demo.data import digits, images
from pid_lens.demo.samples import Batches, batches
from pid_lens.demo.tasks import TASKS, Task, task
from pid_lens.demo.weights import checkpoints, load

__all__ = [
    "TASKS",
    "Batches",
    "Task",
    "batches",
    "checkpoints",
    "digits",
    "images",
    "load",
    "task",
]
