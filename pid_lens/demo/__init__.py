"""A small vision-language model (LLaVA, digits) and tasks whose information atoms are known.

In come the name of a task, a split, a checkpoint; out go a model of transformers with its
processor (`load`) and `pid_lens.Batch` records of scanned digits (`batches`), without a network.
`python -m pid_lens.demo.train` trains the model anew.

Measured on the 450 held-out digits, in the last layer, in bits (one noise draw, tau = 0.3, raked):

| task | R | U_vision | U_language | S | information | 1 - cross-entropy | accuracy |
|---|---|---|---|---|---|---|---|
| vision | .00 | .98 | .00 | .00 | .98 | .99 | 1.00 |
| language | .00 | .00 | 1.00 | .00 | 1.00 | 1.00 | 1.00 |
| redundant | .98 | .00 | .02 | .00 | 1.00 | 1.00 | 1.00 |
| synergy | .00 | .00 | .00 | .98 | .98 | .99 | 1.00 |

With attention knockout Image->Question in all layers the information of vision and synergy is
.00, with Image->answer it stays. After alignment captions are right for 99.6 % of the digits, S
of the synergy task is .00, and the redundant task is still U_language.
"""

from pid_lens.demo.data import digits, images
from pid_lens.demo.sampling import Batches, batches
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
