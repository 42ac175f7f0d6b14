"""Sampling from vLLM: a server, tokens in and tokens out, or the engine that shares the trainer's devices.

In server mode TRL's own ``vllm_generation.generate`` gathers the prompts of all processes: with episodes of different
lengths one process would wait forever or read another's completions. Here each process sends its own requests, one per
turn. The trainer updates the weights before every rollout, in both modes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from ors_gym.client.portal import Portal
from ors_gym.errors import ConnectError, ORSError
from ors_gym.http.asyncio_transport import AsyncioTransport
from ors_gym_trl import compat
from ors_gym_trl.compat import Trainer
from ors_gym_trl.sampling.sampler import (
    BatchSampler,
    BusyClock,
    SampledTurn,
    SamplingError,
    SamplingRequest,
    random_seed,
)
from ors_gym_trl.tokens.images import VisionProcessor
from ors_gym_trl.tokens.record import ImageInputs

__all__ = ["ColocatedSampler", "ServerSampler"]

FINAL_ONLY = 2
"""The finish reason of a completed turn in vLLM."""

BUSY = frozenset({429, 503})
"""Statuses of a server that produced nothing, so that the request can be retried."""


class ServerSampler:
    """Asks a vLLM server for each turn with its own request: ``POST /v1/completions``.

    Works with ``vllm serve``, ``trl vllm-serve`` and any server that takes token ids as the prompt and returns the
    sampled ones, as ``token_ids`` (``return_token_ids``) or as ``token_id:…`` (``return_tokens_as_token_ids``), with
    their log-probabilities. Prompts with images go the way that vLLM has for them since 0.30, with
    ``--enable-scale-out``: ``/v1/chat/completions/render`` computes what the model takes of the images, and
    ``/inference/v1/generate`` continues the tokens with it. A request is sent again only where nothing was produced:
    no connection, or 429 or 503.

    Args:
        url: The server.
        parameters: Sampling parameters of every request.
        stops: The tokens that end a turn.
        model: The model's name there; None asks the server.
        timeout_seconds: How long requests to an unreachable or busy server are retried.
        api_key: Sent as a bearer token.
        image_token_id: The image token, for a model that takes images.
    """

    def __init__(
        self,
        url: str,
        parameters: Mapping[str, Any],
        stops: frozenset[int],
        *,
        model: str | None = None,
        timeout_seconds: float = 240.0,
        api_key: str | None = None,
        image_token_id: int | None = None,
    ) -> None:
        self.url = url
        self._image_token_id = image_token_id
        self._features: dict[tuple[ImageInputs, ...], Any] = {}
        self.settings = dict(parameters)
        self._stops = stops
        self.model = model
        """The model name of the next requests."""
        self._timeout_seconds = timeout_seconds
        self._max_context_tokens = sys.maxsize
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._clock = BusyClock()
        self._stopped = threading.Event()
        self._portal: Portal | None = None
        self._wire: AsyncioTransport | None = None

    @classmethod
    def of_trainer(cls, trainer: Trainer, vision: VisionProcessor | None = None) -> ServerSampler:
        """The server of the trainer's arguments."""
        return cls(
            compat.server_url(trainer),
            compat.sampling_parameters(trainer),
            compat.stop_tokens(trainer),
            timeout_seconds=compat.server_timeout(trainer),
            image_token_id=None if vision is None else vision.image_token_id,
        )

    @property
    def seconds(self) -> float:
        """Wall time in which at least one request was under way."""
        return self._clock.seconds

    @contextmanager
    def open(self) -> Iterator[ServerSampler]:
        """Open connections for one rollout."""
        self._stopped.clear()
        with Portal() as self._portal:
            self._wire = AsyncioTransport(connect_seconds=10.0)
            try:
                self._portal.run(self._learn_model())
                yield self
            finally:
                self._portal.run(self._wire.aclose())
                self._wire = None

    def submit(
        self, prompt: Sequence[int], max_new_tokens: int, pictures: Sequence[ImageInputs] = (), seed: int | None = None
    ) -> Future[SampledTurn]:
        """Send the turn's request."""
        assert self._portal is not None
        return self._portal.submit(self.sample(list(prompt), max_new_tokens, tuple(pictures), seed))

    def serve(self) -> None:
        """Wait: the requests are sent from their own thread."""
        self._stopped.wait()

    def stop(self) -> None:
        """End :meth:`serve`."""
        self._stopped.set()

    async def sample(
        self,
        prompt: list[int],
        max_new_tokens: int,
        pictures: tuple[ImageInputs, ...] = (),
        seed: int | None = None,
    ) -> SampledTurn:
        """Continue ``prompt``, which holds these images, by at most ``max_new_tokens`` tokens.

        If the server's context is too short, by as many as fit, possibly none.

        Raises:
            SamplingError: The server cannot be reached, refuses, or does not return tokens.
        """
        max_new_tokens = min(max_new_tokens, self._max_context_tokens - len(prompt))
        if max_new_tokens <= 0:
            return SampledTurn([], [], ended=False)
        parameters = self.settings | {
            "max_tokens": max_new_tokens,
            "n": 1,
            "logprobs": 0,
            "seed": random_seed() if seed is None else seed,
        }
        self._clock.begin()
        try:
            if pictures:
                request = {
                    "request_id": uuid.uuid4().hex,
                    "model": self.model,
                    "token_ids": prompt,
                    "features": await self._features_in(prompt, pictures),
                    "sampling_params": parameters | {"output_kind": FINAL_ONLY},
                }
                answer = await self._ask("POST", "/inference/v1/generate", request)
            else:
                request = parameters | {
                    "model": self.model,
                    "prompt": prompt,
                    "return_token_ids": True,
                    "return_tokens_as_token_ids": True,
                }
                answer = await self._ask("POST", "/v1/completions", request)
        finally:
            self._clock.end()
        return self._read(answer, max_new_tokens)

    async def _features_in(self, prompt: Sequence[int], pictures: tuple[ImageInputs, ...]) -> dict[str, Any]:
        """The model's inputs for the images and their positions in the prompt.

        The server computes them for a conversation that contains only the images.
        """
        features = self._features.get(pictures)
        if features is None:
            urls = [block.data_url for each in pictures for block in each.blocks]
            content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            request = {"model": self.model, "messages": [{"role": "user", "content": content}], "max_tokens": 1}
            answer = await self._ask("POST", "/v1/chat/completions/render", request)
            features = self._features[pictures] = answer["features"]
        runs: list[dict[str, int]] = []
        for token, places in itertools.groupby(range(len(prompt)), key=lambda place: prompt[place]):
            if token == self._image_token_id:
                first, *rest = places
                runs.append({"offset": first, "length": 1 + len(rest)})
        count = len(features["mm_placeholders"]["image"])
        if len(runs) != count:
            raise SamplingError(
                f"the prompt has {len(runs)} runs of image tokens for {count} images; vLLM's way for token ids with "
                "images needs one run an image. Sample in process (use_vllm=False), or colocated"
            )
        return {**features, "mm_placeholders": {**features["mm_placeholders"], "image": runs}}

    async def _learn_model(self) -> None:
        """Ask for the model's name, unless given, and its maximum length."""
        answer = await self._ask("GET", "/v1/models", None)
        try:
            served = {str(entry["id"]): entry for entry in answer["data"]}
            first = next(iter(served))
        except (KeyError, StopIteration, TypeError):
            raise SamplingError(f"{self.url}/v1/models names no model") from None
        self.model = self.model or first
        length = served.get(self.model, served[first]).get("max_model_len")
        self._max_context_tokens = sys.maxsize if length is None else int(length)

    async def _ask(self, method: str, path: str, request: Mapping[str, Any] | None) -> Any:
        assert self._wire is not None
        body = None if request is None else json.dumps(request).encode()
        patience = time.monotonic() + self._timeout_seconds
        delay = 0.1
        while True:
            try:
                async with self._wire.send(method, self.url + path, self._headers, body) as response:
                    status, content = response.status, await response.read()
            except ConnectError as error:
                status, content = None, str(error).encode()
            except ORSError as error:
                raise SamplingError(
                    f"the connection to {self.url} broke while a turn was being sampled ({error}); it was not asked "
                    "again, as episodes that are sampled anew whenever they take long become too short"
                ) from error
            if status == 200:
                return _decoded(content, self.url + path)
            text = content.decode(errors="replace")[:500]
            if status == 404 and path == "/v1/chat/completions/render":
                raise SamplingError(
                    f"{self.url} does not serve {path}, which prompts with images need; start it with "
                    "--enable-scale-out (vLLM 0.30 or newer)"
                )
            if status is not None and status not in BUSY:
                raise SamplingError(f"{self.url}{path} answered {status}: {text}")
            if time.monotonic() + delay > patience:
                state = "cannot be reached" if status is None else f"kept answering {status}"
                raise SamplingError(f"{self.url} {state} for {self._timeout_seconds:g} s: {text}")
            await asyncio.sleep(delay)
            delay = min(2 * delay, 5.0)

    def _read(self, answer: Any, limit: int) -> SampledTurn:
        try:
            choice = answer["choices"][0]
            logprobs = choice["logprobs"]
            ids = choice.get("token_ids")
            if ids is None:
                ids = [int(token.removeprefix("token_id:")) for token in logprobs["tokens"]]
            given = logprobs.get("token_logprobs")
            if given is None:  # as chat completions, and completions of tokens with images, have them
                given = [entry["logprob"] for entry in logprobs["content"]]
            values = [math.nan if value is None else float(value) for value in given]
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise SamplingError(
                f"{self.url} does not return the sampled tokens and their log-probabilities ({error!r}). Training on "
                "exact tokens needs a server that does: vllm serve from 0.10.2 on, or one that understands "
                "return_token_ids or return_tokens_as_token_ids"
            ) from error
        if len(ids) != len(values):
            raise SamplingError(f"{self.url} returned {len(ids)} tokens with {len(values)} log-probabilities")
        sampled = SampledTurn.cut(ids, values, limit, self._stops)
        if not sampled.ids:
            raise SamplingError(f"{self.url} returned no tokens (finish_reason {choice.get('finish_reason')!r})")
        return sampled


def _decoded(content: bytes, url: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise SamplingError(f"{url} did not answer JSON: {content[:200]!r}") from error


class ColocatedSampler(BatchSampler):
    """Samples with the vLLM engine that shares the trainer's devices, in batches of the waiting turns.

    The engine belongs to this process alone (``vllm_tensor_parallel_size=1``), so processes make no collective calls.
    It uses its own random numbers for a whole batch: TRL passes no seeds.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self._engine = compat.ColocatedEngine(trainer)
        self._stops = compat.stop_tokens(trainer)
        self.settings = compat.sampling_parameters(trainer)

    @contextmanager
    def open(self) -> Iterator[ColocatedSampler]:
        """Keep the engine awake for one rollout."""
        with self._engine.awake():
            yield self

    def sample(self, asked: Sequence[SamplingRequest]) -> list[SampledTurn]:
        """Continue each prompt by at most its ``max_new_tokens`` tokens."""
        images = [[image for each in one.pictures for image in each.images] or None for one in asked]
        prompts = [list(one.prompt) for one in asked]
        longest = max(one.max_new_tokens for one in asked)
        completions, logprobs = self._engine.generate(prompts, images if any(images) else None, longest)
        if logprobs is None:
            raise SamplingError("the colocated vLLM engine returned no log-probabilities")
        return [
            SampledTurn.cut(ids, [_sampled_logprob(token) for token in values], one.max_new_tokens, self._stops)
            for ids, values, one in zip(completions, logprobs, asked, strict=True)
        ]


def _sampled_logprob(of_token: Sequence[float | None]) -> float:
    """The log-probability of the sampled token: the first of a list of one; None in vLLM means NaN."""
    value = of_token[0]
    return math.nan if value is None else value
