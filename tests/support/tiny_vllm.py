"""What vLLM is to a trainer, around the tiny model: the server's HTTP protocol, and the engine in the same process.

Both sample from the very model object that they are given, so a trainer's weights reach them without being sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from PIL.Image import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from trl.generation.vllm_generation import VLLMGeneration

from ors_gym.types import ImageBlock
from ors_gym_trl.tokens.images import VisionProcessor, read_image
from ors_gym_trl.tokens.record import ImageInputs

__all__ = ["CompletionsServer", "TinyLLM", "colocated_generation", "in_server_mode"]

_one_at_a_time = threading.Lock()


@torch.no_grad()
def sample_turn(
    model: Any,
    prompt: Sequence[int],
    *,
    temperature: float,
    max_tokens: int,
    seed: int | None = None,
    top_p: float = 1.0,
    processed: bool = True,
    see: Callable[[torch.Tensor], dict[str, torch.Tensor]] = lambda ids: {},
) -> tuple[list[int], list[float]]:
    """Sample until the end-of-sequence token, which is the last of the ids, or the limit; never an image token.

    The log-probabilities are of the distribution that was sampled from, or, unless ``processed``, of the model's own.
    """
    never = getattr(model.config, "image_token_id", None)
    draw = torch.Generator()
    draw.seed() if seed is None else draw.manual_seed(seed)
    ids, logprobs = list(prompt), []
    with _one_at_a_time:
        for _ in range(max_tokens):
            inputs = torch.tensor([ids])
            logits = model(input_ids=inputs, **see(inputs)).logits[0, -1].float()
            distribution = (logits / temperature).log_softmax(dim=-1)
            if top_p < 1.0:
                likely, tokens = distribution.exp().sort(descending=True)
                distribution[tokens[likely.cumsum(dim=-1) - likely >= top_p]] = -torch.inf
                distribution = distribution.log_softmax(dim=-1)
            chances = distribution.exp()
            distribution = distribution if processed else logits.log_softmax(dim=-1)
            if never is not None:
                chances[never] = 0.0
            token = int(torch.multinomial(chances, 1, generator=draw))
            ids.append(token)
            logprobs.append(float(distribution[token]))
            if token == model.config.get_text_config().eos_token_id:
                break
    return ids[len(prompt) :], logprobs


def seen(vision: VisionProcessor, images: list[Image], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the model is given beside the ids of one row with these images."""
    tensors = vision.processor.image_processor(images=images, return_tensors="pt")
    return vision.inputs(ids, [ImageInputs((), (), tuple(images), tensors)])


@dataclass
class CompletionsServer:
    """``/v1/completions`` as ``vllm serve`` answers it, and what it was asked."""

    model: Any = None
    url: str = field(default="", init=False)
    answers: str = "token_ids"
    """``token_ids`` as vLLM since 0.10.2; ``tokens`` as others that write ``token_id:…``; ``text`` as those that do
    neither."""
    refusals: list[int] = field(default_factory=list)
    """Statuses of the next answers, before it begins to sample."""
    max_model_len: int = 4096
    """What prompt and continuation may have together; a longer request is refused."""
    processed: bool = True
    """Whether it runs with ``--logprobs-mode processed_logprobs``."""
    cut: bool = False
    """Break every connection in the middle of the answer."""
    vision: VisionProcessor | None = None
    """Of a model that takes images; without it the server is one that was not started to."""
    images: dict[str, str] = field(default_factory=dict)
    """What was rendered: data URLs, by hash."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/completions", self.completions, methods=["POST"]),
                *(self.image_routes if self.vision is not None else ()),
            ]
        )

    @property
    def image_routes(self) -> list[Route]:
        return [
            Route("/v1/chat/completions/render", self.render, methods=["POST"]),
            Route("/inference/v1/generate", self.generate, methods=["POST"]),
        ]

    async def render(self, request: Request) -> Response:
        body = await request.json()
        urls = [part["image_url"]["url"] for message in body["messages"] for part in message["content"]]
        hashes = [hashlib.sha256(url.encode()).hexdigest() for url in urls]
        self.images |= dict(zip(hashes, urls, strict=True))
        places = [{"offset": 1, "length": 1} for _ in urls]  # in a conversation that nobody asks about
        return JSONResponse({"features": {"mm_hashes": {"image": hashes}, "mm_placeholders": {"image": places}}})

    async def generate(self, request: Request) -> Response:
        assert self.vision is not None
        body = await request.json()
        self.requests.append(body)
        features, prompt, parameters = body["features"], body["token_ids"], body["sampling_params"]
        assert parameters["output_kind"] == 2
        for place in features["mm_placeholders"]["image"]:
            run = prompt[place["offset"] : place["offset"] + place["length"]]
            assert set(run) == {self.vision.image_token_id}
        files = [self.images[key].removeprefix("data:image/png;base64,") for key in features["mm_hashes"]["image"]]
        ids, logprobs = await asyncio.to_thread(
            sample_turn,
            self.model,
            prompt,
            temperature=parameters["temperature"],
            max_tokens=parameters["max_tokens"],
            seed=parameters["seed"],
            see=partial(seen, self.vision, [read_image(ImageBlock(file, "image/png")) for file in files]),
        )
        entries = [
            {"token": f"token_id:{token}", "logprob": value, "top_logprobs": []}
            for token, value in zip(ids, logprobs, strict=True)
        ]
        choice = {"index": 0, "finish_reason": "length", "token_ids": ids, "logprobs": {"content": entries}}
        return JSONResponse({"request_id": body["request_id"], "choices": [choice]})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": "tiny", "max_model_len": self.max_model_len}]})

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        if self.refusals:
            return JSONResponse({"error": "not now"}, self.refusals.pop(0))
        if self.cut:
            return Response(b"{", headers={"Content-Length": "1000"})
        if len(body["prompt"]) + body["max_tokens"] > self.max_model_len:
            return JSONResponse({"error": f"the context length is {self.max_model_len} tokens"}, 400)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            ids, logprobs = await asyncio.to_thread(
                sample_turn,
                self.model,
                body["prompt"],
                temperature=body["temperature"],
                max_tokens=body["max_tokens"],
                seed=body["seed"],
                top_p=body["top_p"],
                processed=self.processed,
            )
        finally:
            self.under_way -= 1
        finish = "stop" if ids[-1] == self.model.config.get_text_config().eos_token_id else "length"
        tokens = [f"token_id:{token}" for token in ids] if self.answers != "text" else ["look"] * len(ids)
        choice = {
            "index": 0,
            "text": "…",
            "finish_reason": finish,
            "logprobs": {"tokens": tokens, "token_logprobs": logprobs},
        }
        if self.answers == "token_ids":
            choice |= {"token_ids": ids, "prompt_token_ids": body["prompt"]}
        return JSONResponse({"id": "cmpl-1", "object": "text_completion", "model": "tiny", "choices": [choice]})


class TinyLLM:
    """``vllm.LLM`` as far as TRL's colocate mode calls it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.vision: VisionProcessor | None = None
        self.batches: list[int] = []
        self.asleep: set[str] = set()
        self.sleeps = 0

    def generate(self, prompts: list[dict[str, Any]], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        assert not self.asleep, f"asked while {self.asleep} sleep"
        self.batches.append(len(prompts))
        return [self._output(prompt, sampling_params) for prompt in prompts]

    def _output(self, row: dict[str, Any], parameters: Any) -> Any:
        prompt, see = row["prompt_token_ids"], lambda ids: {}
        if "multi_modal_data" in row:
            images = row["multi_modal_data"]["image"]
            see = partial(seen, self.vision, images if isinstance(images, list) else [images])
        ids, logprobs = sample_turn(
            self.model, prompt, temperature=parameters.temperature, max_tokens=parameters.max_tokens, see=see
        )
        values = [{token: SimpleNamespace(rank=1, logprob=value)} for token, value in zip(ids, logprobs, strict=True)]
        return SimpleNamespace(
            prompt_token_ids=prompt, outputs=[SimpleNamespace(token_ids=tuple(ids), logprobs=values)]
        )

    def wake_up(self, tags: list[str]) -> None:
        self.asleep -= set(tags)

    def sleep(self, level: int) -> None:
        self.asleep = {"weights", "kv_cache"}
        self.sleeps += 1

    def reset_prefix_cache(self) -> None:
        pass


def in_server_mode(trainer: Any, url: str) -> None:
    """Give the trainer what ``use_vllm=True, vllm_mode="server"`` gives it where vLLM is installed."""

    def generate(*_: Any, **__: Any) -> None:
        raise AssertionError("TRL's generate is a collective call in server mode")

    trainer.use_vllm = trainer.args.use_vllm = True
    trainer.vllm_mode = "server"
    trainer.args.vllm_server_base_url = url
    trainer.vllm_generation = SimpleNamespace(sync_weights=lambda: None, generate=generate)
    trainer._last_loaded_step = -1
    trainer.vllm_importance_sampling_correction = True


def colocated_generation(trainer: Any, monkeypatch: Any, *, sleep: bool = False) -> TinyLLM:
    """Give the trainer TRL's own ``VLLMGeneration`` in colocate mode, around the tiny model instead of an engine."""
    monkeypatch.setattr("trl.generation.vllm_generation.SamplingParams", SimpleNamespace, raising=False)
    llm = TinyLLM(trainer.model)
    generation = VLLMGeneration.__new__(VLLMGeneration)
    vars(generation).update(
        model=trainer.model, accelerator=trainer.accelerator, processing_class=trainer.processing_class,
        mode="colocate", structured_outputs_regex=None, tensor_parallel_size=1, enable_sleep_mode=sleep,
        repetition_penalty=1.0, temperature=1.0, top_p=1.0, top_k=0, min_p=None,
        max_completion_length=trainer.args.max_completion_length, logprobs=0, generation_kwargs={}, llm=llm,
        _llm_weights_sleeping=sleep,
    )  # fmt: skip
    if sleep:
        llm.sleep(level=2)

    def sync_weights() -> None:
        llm.wake_up(["weights"])
        generation._llm_weights_sleeping = False

    generation.sync_weights = sync_weights
    trainer.use_vllm = trainer.args.use_vllm = True
    trainer.vllm_mode = "colocate"
    trainer.vllm_generation = generation
    trainer._last_loaded_step = -1
    trainer.vllm_importance_sampling_correction = True
    return llm
