"""A transformers model in this process as a policy: ``ors-gym eval --model local:NAME``, and anywhere in Python."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    ProcessorMixin,
)

from ors_gym.dialects import Dialect, UnknownDialectError, dialect
from ors_gym.policies.policy import Reply, Turn
from ors_gym_trl.policy import TokenPolicy, UnseenImages
from ors_gym_trl.sampling.distribution import SHAPING
from ors_gym_trl.sampling.in_process import PaddedSampler
from ors_gym_trl.sampling.sampler import SampledTurn, SamplingRequest
from ors_gym_trl.tokens.conversation import ChatTokenizer
from ors_gym_trl.tokens.images import VisionProcessor

__all__ = ["LocalPolicy"]

EPISODES_KEPT = 4096
"""Episodes whose tokens are kept: a policy does not learn when one is over. More than run at once."""


class LocalPolicy:
    """Plays episodes with a model in this process, token-exact as in training.

    ::

        async with LocalPolicy("Qwen/Qwen3-0.6B", temperature=0.7) as policy:
            evaluation = await evaluate(url, {"qwen": policy}, epochs=4)

    Turns that wait for the model are sampled in one padded batch, on a thread of the policy's own. Each turn is drawn
    with its own seed, so a run with a seed does not depend on what else was waiting.

    Args:
        model: A name on the Hugging Face Hub, a folder, or a model that is loaded.
        processing: Its tokenizer, or the processor of a vision-language model; by default the one of the same name.
        max_turn_tokens: Tokens of one message; one that is cut off there ends the episode.
        parser: How the model writes tool calls; by default as its chat template does.
        template_options: Further variables of the chat template, such as ``enable_thinking``.
        system: A system message before the environment's prompt.
        unseen_images: See :class:`~ors_gym_trl.Source`.
        device: The device of a model that is loaded here; by default a GPU if available.
        sampling: ``temperature``, ``top_p``, ``top_k``, ``min_p``, ``repetition_penalty``, …, as transformers names
            them; by default those that the model came with. A temperature of 0 takes the likeliest token.

    Raises:
        ValueError: a setting is unknown, or the model has no chat template that can be used.
        OSError: the model does not exist.
    """

    def __init__(
        self,
        model: str | Any,
        processing: Any = None,
        *,
        max_turn_tokens: int = 1024,
        parser: str | Dialect = "auto",
        template_options: Mapping[str, Any] | None = None,
        system: str | None = None,
        unseen_images: UnseenImages = "stop",
        device: str | None = None,
        **sampling: Any,
    ) -> None:
        unknown = sorted(sampling.keys() - SHAPING.keys())
        if unknown:
            raise ValueError(f"unknown settings {', '.join(unknown)}; a local model has {', '.join(SHAPING)}")
        loaded, processing = _loaded(model, processing, device)
        vision = VisionProcessor(processing) if isinstance(processing, ProcessorMixin) else None
        text: Any = processing if vision is None else vision.processor.tokenizer
        configured = _generation_config(loaded, text, sampling)
        stops = _stops(configured)
        tokenizer = ChatTokenizer(text, template_options, stops, vision)
        self._unreadable: UnknownDialectError | None = None
        try:
            read_by = parser if isinstance(parser, Dialect) else tokenizer.dialect(parser)
        except UnknownDialectError as error:  # of no matter to an environment without tools
            if parser != "auto":
                raise
            self._unreadable, read_by = error, dialect("plain")
        context = getattr(loaded.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        self._sampler = _OwnThread(loaded, configured, stops, vision)
        self._policy = TokenPolicy(
            tokenizer,
            read_by,
            self._sampler.submit,
            max_completion_tokens=context,
            max_context_tokens=context,
            max_turn_tokens=max_turn_tokens,
            system=system,
            unseen_images=unseen_images,
        )

    async def act(self, turn: Turn) -> Reply:
        """Sample the model's next message."""
        if self._unreadable is not None and turn.tools:
            raise self._unreadable
        self._sampler.start()
        records = self._policy.records
        while len(records) > EPISODES_KEPT:
            del records[next(iter(records))]
        return await self._policy.act(turn)

    def close(self) -> None:
        """End the thread. The model stays where it is."""
        self._sampler.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _OwnThread(PaddedSampler):
    """A sampler with its own thread; an error of the model is raised to the callers."""

    def __init__(self, model: Any, configured: Any, stops: frozenset[int], vision: VisionProcessor | None) -> None:
        super().__init__(lambda: _held(model), configured, stops, vision)
        self._thread: threading.Thread | None = None
        self._asked: Sequence[SamplingRequest] = ()

    def start(self) -> None:
        """Start the thread, where it does not run."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ors-gym local model", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread, after the batch that it samples."""
        if self._thread is not None:
            self.stop()
            self._thread.join()
            self._thread = None

    def sample(self, asked: Sequence[SamplingRequest]) -> list[SampledTurn]:
        """Continue each prompt."""
        self._asked = asked
        return super().sample(asked)

    def _run(self) -> None:
        with self.open():
            while True:
                try:
                    self.serve()
                    return
                except Exception as error:
                    for request in self._asked:
                        request.answer.set_exception(error)


@contextmanager
def _held(model: Any) -> Iterator[Any]:
    with torch.no_grad():
        yield model


def _loaded(model: Any, processing: Any, device: str | None) -> tuple[Any, Any]:
    """The model and what prepares its inputs, loaded where only a name was given."""
    if not isinstance(model, str):
        if processing is None:
            raise ValueError(
                "a model that is loaded comes with its tokenizer or processor: LocalPolicy(model, tokenizer)"
            )
        return model.eval(), processing
    seeing = "vision_config" in AutoConfig.from_pretrained(model).to_dict()
    if processing is None:
        processing = (AutoProcessor if seeing else AutoTokenizer).from_pretrained(model)
    kind: Any = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return kind.from_pretrained(model, dtype="auto").to(place).eval(), processing


def _generation_config(model: Any, tokenizer: Any, sampling: Mapping[str, Any]) -> Any:
    """The model's own generation settings, overridden by these."""
    configured: Any = copy.deepcopy(model.generation_config)
    own = {name: getattr(configured, name, None) for name in SHAPING} if configured.do_sample else {}
    settings = {**own, **sampling}
    if settings.get("temperature") == 0:
        settings |= {"temperature": 1.0, "top_k": 1}
    for name, (neutral, _) in SHAPING.items():
        value = settings.get(name)
        setattr(configured, name, neutral if value is None else value)
    if configured.eos_token_id is None:
        configured.eos_token_id = tokenizer.eos_token_id
    if configured.pad_token_id is None:
        configured.pad_token_id = next(
            token for token in (tokenizer.pad_token_id, *_stops(configured)) if token is not None
        )
    configured.max_length = None
    return configured


def _stops(configured: Any) -> frozenset[int]:
    """The tokens that end a message."""
    stops = configured.eos_token_id
    return frozenset(stops if isinstance(stops, list) else [stops])
