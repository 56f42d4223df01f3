"""Train a student in torch.

The rows start as the teacher's vectors of single tokens. A student has a weight for each token and
a linear head; the loss is one minus the cosine with the teacher's vector.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

from router.arrays import Indices, Vectors
from router.files import replacing
from router.model_config import MAX_TOKENS
from router.student import UNKNOWN, About, Student, quantised

COMMON = 1e-3  # a token of this share of all tokens starts with half the weight of a rare one
MIN_LOG_WEIGHT = -6.0
SPREAD = 0.3  # standard deviation of the rows at the start
RIDGE = 1e-3
RIDGE_TEXTS = 40_000
WARM_UP_STEPS = 50
MIN_RATE = 0.02


class Bags(NamedTuple):
    """Token ids of texts, one text after another, and where each text starts."""

    ids: Indices
    starts: Indices  # (texts + 1,)

    def take(self, places: Indices) -> "Bags":
        """Select the bags of these texts."""
        counts = self.starts[places + 1] - self.starts[places]
        starts = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
        return Bags(self.ids[np.repeat(self.starts[places], counts) + within], starts)


class Recipe(NamedTuple):
    """The length and the rates of a training stage."""

    epochs: int
    rate: float
    batch: int


GENERAL = Recipe(15, 2e-3, 512)  # for up to 20,000 texts; more texts take fewer epochs
FEWEST_EPOCHS = 5
OWN = Recipe(3, 5e-4, 512)
OWN_ALONE = Recipe(6, 2e-3, 512)  # without a general stage before it


def general_recipe(texts: int) -> Recipe:
    """Return the recipe for this many texts: 5 to 15 epochs, 300,000 texts in all if possible."""
    epochs = min(GENERAL.epochs, max(FEWEST_EPOCHS, 300_000 // max(1, texts)))
    return GENERAL._replace(epochs=epochs)


def bags_of(tokenizer: Tokenizer, texts: Sequence[str]) -> Bags:
    """Tokenize texts as a student reads them; an unreadable text is a bag of the unknown token."""
    read = [
        [id for id in encoding.ids[:MAX_TOKENS] if id != UNKNOWN] or [UNKNOWN]
        for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ]
    counts = np.array([len(ids) for ids in read], np.int64)
    return Bags(
        np.concatenate([np.array(ids, np.int64) for ids in read]),
        np.concatenate([[0], np.cumsum(counts)]),
    )


class Network(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """The network that is trained; `student` folds it into rows."""

    def __init__(self, table: Vectors, log_weights: Vectors) -> None:
        super().__init__()
        size = table.shape[1]
        self.table = nn.Parameter(torch.from_numpy(np.array(table, np.float32)))
        self.log_weights = nn.Parameter(torch.from_numpy(np.array(log_weights, np.float32)))
        self.head = nn.Linear(size, size)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(size))
            self.head.bias.zero_()

    @classmethod
    def of_teacher(cls, singles: Vectors, tokens: Bags) -> "Network":
        """Start from the teacher's vectors of single tokens and from token frequencies.

        `singles` has the shape (tokens without the unknown, n); `tokens` are the texts in which
        tokens are counted.
        """
        rows = singles - singles.mean(axis=0)
        rows *= SPREAD / max(float(rows.std()), 1e-12)
        table = np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows])
        counts = np.bincount(tokens.ids, minlength=len(table)).astype(np.float64)
        shares = counts / max(1.0, counts.sum())
        return cls(table, np.maximum(np.log(COMMON / (COMMON + shares)), MIN_LOG_WEIGHT))

    @classmethod
    def of_student(cls, student: Student) -> "Network":
        """Start from an existing student."""
        rows = student.rows.astype(np.float32) * student.scales[:, None]
        rows *= SPREAD / max(float(rows.std()), 1e-12)
        return cls(rows, np.log(np.maximum(student.weights, 1e-6)))

    @classmethod
    def load(cls, path: Path) -> "Network":
        """Read what `save` wrote."""
        state = torch.load(path, weights_only=True)
        made = cls(state["table"].numpy(), state["log_weights"].numpy())
        made.load_state_dict(state)
        return made

    def save(self, path: Path) -> None:
        """Write the network as it is, in its full precision."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            torch.save(self.state_dict(), file)

    def copy(self) -> "Network":
        """Return another network with the same values."""
        return deepcopy(self)

    def pool(self, bags: Bags) -> torch.Tensor:
        """Return the weighted mean of each text's rows."""
        ids = torch.from_numpy(bags.ids)
        weights = self.log_weights[ids].exp()
        counts = torch.from_numpy(np.diff(bags.starts))
        texts = torch.repeat_interleave(torch.arange(len(counts)), counts)
        sums = torch.zeros(len(counts)).index_add(0, texts, weights).clamp(min=1e-6)
        return functional.embedding_bag(
            ids,
            self.table,
            torch.from_numpy(bags.starts[:-1]),
            mode="sum",
            per_sample_weights=weights / sums[texts],
        )

    def forward(self, bags: Bags) -> torch.Tensor:
        """Return the vectors, which have length 1."""
        return functional.normalize(self.head(self.pool(bags)), dim=1)

    def solve_head(self, bags: Bags, targets: Vectors) -> None:
        """Set the head to the ridge regression of the targets on the means."""
        places = np.arange(min(RIDGE_TEXTS, len(targets)))
        with torch.inference_mode():
            parts = [
                self.pool(bags.take(places[at : at + 1024])).numpy()
                for at in range(0, len(places), 1024)
            ]
        x = np.concatenate(parts).astype(np.float64)
        y = targets[places].astype(np.float64)
        x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
        gram = (x - x_mean).T @ (x - x_mean)
        ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        matrix = np.linalg.solve(gram + ridge, (x - x_mean).T @ (y - y_mean))
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(matrix.T.astype(np.float32)))
            self.head.bias.copy_(torch.from_numpy((y_mean - x_mean @ matrix).astype(np.float32)))

    def train_on(
        self,
        bags: Bags,
        targets: Vectors,
        recipe: Recipe,
        done: Callable[[int], object] = lambda texts: None,
    ) -> None:
        """Train for the epochs of the recipe; `done` gets the number of texts of each step.

        Only the rows of tokens in the texts are trained: the optimiser's time grows with the rows.
        """
        used, ids = np.unique(bags.ids, return_inverse=True)
        places = torch.from_numpy(used)
        part = Network(
            self.table.detach()[places].numpy(), self.log_weights.detach()[places].numpy()
        )
        part.head.load_state_dict(self.head.state_dict())
        part._descend(Bags(ids, bags.starts), targets, recipe, done)
        with torch.no_grad():
            self.table[places] = part.table
            self.log_weights[places] = part.log_weights
        self.head.load_state_dict(part.head.state_dict())

    def _descend(
        self, bags: Bags, targets: Vectors, recipe: Recipe, done: Callable[[int], object]
    ) -> None:
        rng = np.random.default_rng(0)
        optimiser = torch.optim.Adam(
            [
                {"params": [self.table, self.log_weights], "lr": recipe.rate},
                {"params": [*self.head.parameters()], "lr": recipe.rate / 2},
            ],
            betas=(0.9, 0.99),
            fused=True,
        )
        rates = [group["lr"] for group in optimiser.param_groups]
        batches = max(1, len(targets) // recipe.batch)
        steps, step = recipe.epochs * batches, 0
        warm_up = min(WARM_UP_STEPS, steps // 5 + 1)
        for _ in range(recipe.epochs):
            for rows in np.array_split(rng.permutation(len(targets)), batches):
                factor = min(1.0, (step + 1) / warm_up) * max(MIN_RATE, 1 - step / steps)
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                wanted = torch.from_numpy(targets[rows].astype(np.float32))
                loss = (1 - (self(bags.take(rows)) * wanted).sum(dim=1)).mean()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                step += 1
                done(len(rows))

    def student(self, about: About, tokenizer: Tokenizer) -> Student:
        """Return the student: rows in 8 bits, with the head folded in."""
        with torch.inference_mode():
            rows = self.head(self.table).numpy()
            weights = self.log_weights.exp().numpy().copy()
        bits, scales = quantised(rows)
        return Student(about, tokenizer, bits, scales, weights)
