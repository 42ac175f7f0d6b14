"""Checks that stop a run whose samples do not come from the trained weights, and warn when nothing is learned."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ors_gym.trajectory import Failure, Trajectory
from ors_gym_trl import compat
from ors_gym_trl.compat import Trainer
from ors_gym_trl.sampling.distribution import shapes, shaping
from ors_gym_trl.tokens.record import TokenRecord

__all__ = ["BatchJudge", "SamplingMismatchError", "check_sampling"]

log = logging.getLogger(__name__)

MAX_MEAN_DIFFERENCE = 0.1
"""Nats. A vLLM server in bfloat16 of a model trained in float32 is at 0.04 to 0.06; sampling from other weights, or
from a broken cache, is above 1."""


class SamplingMismatchError(RuntimeError):
    """The sampled tokens do not come from the weights that are being trained."""


def check_sampling(
    trainer: Trainer, rows: Sequence[TokenRecord], settings: Mapping[str, Any] | None = None, num_rows: int = 4
) -> None:
    """Compare log-probabilities as sampled with a plain forward pass over the final tokens of a few episodes.

    Every process makes exactly ``num_rows`` forward passes, so that sharded models stay in step. Each has one row, and
    only the logits of sampled tokens become float32, because the logits of a whole episode take gigabytes.

    Args:
        trainer: Whose model it is.
        rows: The episodes.
        settings: The sampling settings applied to the distribution of the log-probabilities, applied to the forward
            pass likewise. Empty for only the temperature.
        num_rows: Number of episodes compared.

    Raises:
        SamplingMismatchError: They differ by more than 0.1 nats on average.
    """
    shown = [row for row in rows if any(row.mask)][:num_rows] or list(rows[:1])
    shaped = settings if settings and shapes(settings) else {"temperature": compat.temperature(trainer)}
    differences: list[float] = []
    with compat.model_for_generation(trainer) as model:
        for row in itertools.islice(itertools.cycle(shown), num_rows):
            sampled = [logprob for logprob, mask in zip(row.logprobs, row.mask, strict=True) if mask]
            again = _recompute(model, row, shaped)
            differences += [abs(a - b) for a, b in zip(sampled, again, strict=True) if not math.isnan(a)]
    mean = sum(differences) / max(len(differences), 1)
    if not mean <= MAX_MEAN_DIFFERENCE:
        raise SamplingMismatchError(
            f"sampled log-probabilities differ from the trained model's by {mean:.2f} nats on average (allowed: "
            f"{MAX_MEAN_DIFFERENCE}). The samples do not come from the weights being trained, or from another "
            f"distribution of theirs. {_causes(trainer)}. Temperature, top_p, top_k, min_p and repetition_penalty are "
            "allowed for"
        )


def _causes(trainer: Trainer) -> str:
    if compat.backend(trainer) in ("server", "colocate"):
        return (
            "Usual causes: weights that never reached the vLLM server; a server of another model; one that runs "
            "without --logprobs-mode processed_logprobs, at a temperature other than 1 or with top_p, top_k or min_p; "
            "penalties or other generation_kwargs that change logits; a server in lower precision than the trainer "
            "(bfloat16 is near 0.05, quantised weights are above)"
        )
    return (
        "Usual causes: dropout in the model; generation_kwargs that change logits (no_repeat_ngram_size, …); "
        "half precision; or generating with gradient checkpointing on"
    )


def _recompute(model: Any, row: TokenRecord, settings: Mapping[str, Any]) -> list[float]:
    """The log-probability of each sampled token by a plain forward pass, in the distribution it was drawn from.

    A token that rounding puts outside of top-p is compared in the full distribution.
    """
    ids: Any = torch.tensor([row.ids], device=model.device)
    logits: Any = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    places = [place for place, mask in enumerate(row.mask, start=len(row.prompt_ids)) if mask]
    scores = logits[0, [place - 1 for place in places]].float()  # the logits at a position are for the next token
    processors = shaping(settings)
    if shapes(settings):
        whole = scores / (settings.get("temperature") or 1.0)
        each = [processors(ids[:, :place], one.unsqueeze(0)) for place, one in zip(places, scores, strict=True)]
        scores = torch.cat(each) if each else scores
        shut_out = scores.gather(1, ids[0, places, None]).isinf()
        scores = torch.where(shut_out, whole, scores)
    else:
        scores = processors(ids, scores)
    chosen = scores.gather(1, ids[0, places, None]).squeeze(1) - scores.logsumexp(dim=1)
    return [float(value) for value in chosen]


class BatchJudge:
    """Judges each batch over all processes: ends a run that only fails, and warns when a first batch has no signal.

    Args:
        max_failed_batches: The run ends after this many consecutive batches in which every episode failed.
    """

    def __init__(self, max_failed_batches: int) -> None:
        if max_failed_batches < 1:
            raise ValueError("max_failed_batches must be at least 1")
        self._max_failed_batches = max_failed_batches
        self._failed_batches = 0
        self._looked = False

    def look(
        self,
        trainer: Trainer,
        members: Sequence[Trajectory],
        returns: Sequence[float | None],
        failures: Sequence[Failure],
        *,
        training: bool,
    ) -> None:
        """Judge a batch, of which these are this process's rows. Every process calls it once a batch.

        Raises:
            RuntimeError: Every episode of several batches in a row failed, in every process.
        """
        worth = [math.nan if value is None else value for value in returns]
        rewarded = [float(any(reward is not None for reward in member.rewards)) for member in members]
        failed = [float(member.failed) for member in members]
        count = len(members)
        everywhere = compat.gathered(trainer, [*worth, *rewarded, *failed])
        parts = [everywhere[start : start + 3 * count] for start in range(0, len(everywhere), 3 * count)]
        if all(all(part[2 * count :]) for part in parts):
            self._failed_batches += 1
            self._say_failed(failures)
        else:
            self._failed_batches = 0
        if training and not self._looked:
            self._looked = True
            size = compat.group_size(trainer, training=True)
            values = [value for part in parts for value in part[:count]]
            _say_what_is_learned(
                [values[start : start + size] for start in range(0, len(values), size)],
                any(value for part in parts for value in part[count : 2 * count]),
            )

    def _say_failed(self, failures: Sequence[Failure]) -> None:
        last = f"{failures[-1].kind}: {failures[-1].message}" if failures else "in another process"
        said = f"every episode of {self._failed_batches} batches in a row failed; nothing was trained on. Last: {last}"
        if self._failed_batches >= self._max_failed_batches:
            raise RuntimeError(said)
        log.warning("%s (the run ends after %d such batches)", said, self._max_failed_batches)


def _say_what_is_learned(groups: Sequence[Sequence[float]], rewarded: bool) -> None:
    scored = [[value for value in group if not math.isnan(value)] for group in groups]
    if any(len(values) > 1 and min(values) < max(values) for values in scored):
        return
    if not rewarded:
        log.warning(
            "no episode of the first batch was given a reward: there is nothing to learn from it. If the model never "
            "solves a task, train on easier ones, or warm it up on the form of a tool call"
        )
    else:
        log.warning(
            "the returns of every group of the first batch are equal: there is nothing to learn from it. Tasks that "
            "are neither always nor never solved teach; so do more generations a task"
        )
