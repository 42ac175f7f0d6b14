"""Images reach a vision-language model where it samples and where it is trained, each row its own."""

from __future__ import annotations

import asyncio
import base64
import random
import re
import struct
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ors_gym import RolloutLimits, TaskRef, ToolCall, Turn
from ors_gym.types import ImageBlock, Message, TextBlock, ToolList
from ors_gym_server import create_app
from ors_gym_trl import ImagesNotSupportedError, ORSRollouts, SamplingError, TemplateError
from ors_gym_trl.policy import TokenPolicy
from ors_gym_trl.sampling.sampler import SampledTurn
from ors_gym_trl.tokens.conversation import ChatTokenizer
from ors_gym_trl.tokens.images import ImageFeed, VisionProcessor, read_image
from ors_gym_trl.tokens.record import ImageInputs, Span, TokenRecord
from tests.support.ors_servers import RunningServer, serve_app
from tests.support.tiny_vision import COLORS, Colors, make_gemma, make_qwen, png
from tests.support.tiny_vllm import CompletionsServer, colocated_generation, in_server_mode
from tests.support.trl_runs import make_trainer, one_thread
from tests.support.trl_says import Says

__all__ = ["one_thread"]  # a fixture


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve_app(create_app([Colors])) as running:
        yield running


@pytest.fixture
def rollouts(server: RunningServer) -> Iterator[ORSRollouts]:
    """Two turns, each a look at another picture, which one sampled token asks for."""
    limits = RolloutLimits(max_turns=2)
    parser = Says(ToolCall("look"))
    with ORSRollouts(server.url, env_name="colors", limits=limits, parser=parser, max_turn_tokens=1) as made:
        yield made


@pytest.fixture
def trainer_of(rollouts: ORSRollouts, tmp_path: Path) -> Callable[..., Any]:
    """A trainer for which every token but an image's ends a turn."""

    def make(make_model: Callable[[], tuple[Any, Any]], **settings: Any) -> Any:
        model, processor = make_model()
        model.save_pretrained(tmp_path / "model")
        model = type(model).from_pretrained(tmp_path / "model")  # where the trainer finds its reference model, too
        settings = {"max_completion_length": 1024, "per_device_train_batch_size": 4} | settings
        trainer = make_trainer(rollouts, tmp_path, tokenizer=processor, model=model, **settings)
        trainer.generation_config.eos_token_id = list(range(len(processor.tokenizer)))
        return trainer

    return make


def padded(columns: dict[str, list[Any]], order: list[int], pad: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Token ids, attention mask and the completions' width, of the rows in this order, as a trainer has them."""
    before = max(map(len, columns["prompt_ids"]))
    after = max(map(len, columns["completion_ids"]))
    rows = [(columns["prompt_ids"][i], columns["completion_ids"][i]) for i in order]
    ids = [[pad] * (before - len(p)) + p + c + [pad] * (after - len(c)) for p, c in rows]
    mask = [[0] * (before - len(p)) + [1] * len(p + c) + [0] * (after - len(c)) for p, c in rows]
    return torch.tensor(ids), torch.tensor(mask), after


@pytest.fixture
def vllm_server() -> Iterator[CompletionsServer]:
    vision = VisionProcessor(make_qwen()[1])
    vision.encode("<|vision_start|><|image_pad|>", [ImageBlock(png("red"), "image/png")])  # which it learns from
    completions = CompletionsServer(vision=vision)
    with serve_app(completions.app) as running:
        completions.url = running.url
        yield completions


@pytest.mark.parametrize(
    ("make_model", "backend"),
    [(make_qwen, "in process"), (make_gemma, "in process"), (make_qwen, "server"), (make_qwen, "colocate")],
)
def test_the_trainer_sees_the_sampled_distribution_for_any_order_of_rows(
    make_model: Callable,
    backend: str,
    trainer_of: Callable,
    rollouts: ORSRollouts,
    vllm_server: CompletionsServer,
    monkeypatch: pytest.MonkeyPatch,
):
    trainer = trainer_of(make_model)
    match backend:
        case "server":
            vllm_server.model = trainer.model
            in_server_mode(trainer, vllm_server.url)
        case "colocate":
            engine = colocated_generation(trainer, monkeypatch)
            engine.vision = vllm_server.vision
    prompts = [row for row in rollouts.train_dataset["prompt"] for _ in range(4)]

    columns = rollouts.rollout_func(prompts, trainer)

    order = list(range(len(prompts)))
    random.Random(0).shuffle(order)
    ids, mask, width = padded(columns, order, trainer._tokenizer.pad_token_id)
    with torch.no_grad():
        recomputed = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width, batch_size=5)[0]
    for place, row in enumerate(order):
        logprobs, env_mask = columns["logprobs"][row], columns["env_mask"][row]
        assert sum(env_mask) == 2
        for again, sampled, is_sampled in zip(recomputed[place].tolist(), logprobs, env_mask, strict=False):
            assert not is_sampled or abs(again - sampled) < 1e-4
    assert columns["ors_return"] == [1.0] * len(prompts)


def test_a_turn_ends_before_an_image_token_that_was_sampled():
    _, processor = make_qwen()
    vision = VisionProcessor(processor)
    answer: Future[SampledTurn] = Future()
    answer.set_result(SampledTurn([7, 8, vision.image_token_id, 9], [-1.0] * 4, ended=True))
    chat = ChatTokenizer(processor.tokenizer, vision=vision)
    policy = TokenPolicy(chat, Says(ToolCall("look")), lambda *_: answer, max_completion_tokens=100)
    turn = Turn("e", TaskRef("colors", "train", 0), (Message("user", (TextBlock("which?"),)),), ToolList())

    reply = asyncio.run(policy.act(turn))

    assert reply.truncated
    assert policy.records["e"].completion_ids == [7, 8]


@pytest.mark.parametrize("make_model", [make_qwen, make_gemma])
def test_the_part_that_sees_is_trained(make_model: Callable, trainer_of: Callable, rollouts: ORSRollouts):
    draw = random.Random(0)

    def luck(completions: list[Any], **columns: Any) -> list[float]:
        return [draw.random() for _ in completions]

    trainer = trainer_of(make_model, reward_funcs=[*rollouts.reward_funcs, luck], beta=0.1, learning_rate=1e-2)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters() if "vis" in name}
    assert before

    trainer.train()

    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(weight, after[name]) for name, weight in before.items())


def test_another_trainer_sees_the_images_too_of_another_model_and_of_the_same(
    trainer_of: Callable, rollouts: ORSRollouts, tmp_path: Path
):
    first, other = trainer_of(make_qwen), trainer_of(make_gemma)
    prompts = [row for row in rollouts.train_dataset["prompt"] for _ in range(4)]
    again = make_trainer(
        rollouts, tmp_path, tokenizer=first.processing_class, model=first.model, max_completion_length=1024
    )
    again.generation_config.eos_token_id = first.generation_config.eos_token_id

    for trainer in (first, other, again):
        columns = rollouts.rollout_func(prompts, trainer)
        ids, mask, _ = padded(columns, [0, 4], trainer._tokenizer.pad_token_id)
        with torch.no_grad():
            logits = trainer.model(input_ids=ids, attention_mask=mask).logits[:, len(columns["prompt_ids"][0])]
        assert not torch.allclose(logits[0], logits[1], atol=1e-4)


def test_batches_of_evaluation_come_between_the_steps_of_a_batch_of_training(
    trainer_of: Callable, rollouts: ORSRollouts
):
    rollouts.__dict__["eval_dataset"] = rollouts.train_dataset
    settings = {"steps_per_generation": 2, "num_iterations": 2, "max_steps": 5, "eval_strategy": "steps"}
    trainer = trainer_of(make_qwen, eval_steps=1, per_device_eval_batch_size=4, **settings)

    trainer.train()

    assert trainer.state.global_step == 5


@pytest.mark.parametrize("make_model", [make_qwen, make_gemma])
def test_the_model_is_told_which_tokens_are_images_as_its_processor_tells_it(make_model: Callable):
    _, processor = make_model()
    vision = VisionProcessor(processor)
    image = ImageBlock(png("red", (24, 16)), "image/png")
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    told = processor(text=[text], images=[[read_image(image)]], add_special_tokens=False, return_tensors="pt")

    given = vision.inputs(told["input_ids"], [vision.encode(text, [image])])

    assert given.keys() == told.keys() - {"input_ids", "attention_mask"}
    assert all(torch.equal(given[name], told[name]) for name in given)
    assert int((told["input_ids"] == vision.image_token_id).sum()) > 1


@pytest.mark.parametrize("make_model", [make_qwen, make_gemma])
def test_completions_that_are_masked_as_truncated_keep_their_images(
    make_model: Callable, trainer_of: Callable, rollouts: ORSRollouts
):
    trainer = trainer_of(make_model, mask_truncated_completions=True)
    trainer.eos_token_ids = []

    trainer.train()

    assert trainer.state.global_step == 2


def test_rows_of_the_same_tokens_are_given_each_its_own_images(trainer_of: Callable):
    trainer = trainer_of(make_qwen)
    vision = VisionProcessor(trainer.processing_class)
    text = "<|vision_start|><|image_pad|>which?"
    records = []
    for color in (*COLORS, COLORS[0]):
        pictures = vision.encode(text, [ImageBlock(png(color), "image/png")])
        records.append(TokenRecord.beginning(Span(list(pictures.ids), pictures)))
        records[-1].add_sampled([7, 8], [-1.0, -1.0])
    feed = ImageFeed(vision, trainer)

    feed.hold(records, training=True)

    assert [record.completion_ids for record in records] == [[7, 8], [7, 8, 8], [7, 8, 8, 8], [7, 8]]
    assert all(sum(record.mask) == 2 for record in records)
    columns = {"prompt_ids": [r.prompt_ids for r in records], "completion_ids": [r.completion_ids for r in records]}
    ids, mask, _ = padded(columns, [0, 1, 2, 3], trainer._tokenizer.pad_token_id)
    with torch.no_grad():
        logits = trainer.model(input_ids=ids, attention_mask=mask).logits[:, len(records[0].prompt_ids)]
    assert torch.allclose(logits[0], logits[3], atol=1e-6)
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)
    with torch.no_grad():  # a row without padding needs no mask
        alone = trainer.model(input_ids=ids[2:3]).logits[:, len(records[0].prompt_ids)]
    assert torch.allclose(logits[2:3], alone, atol=1e-6)
    with pytest.raises(RuntimeError, match="no episode of the batch"):
        trainer.model(input_ids=ids[:, 1:], attention_mask=mask[:, 1:])


@pytest.mark.parametrize("make_model", [make_qwen, make_gemma])
def test_generating_with_images_of_ones_own_is_left_alone_between_two_steps(
    make_model: Callable, trainer_of: Callable, rollouts: ORSRollouts
):
    trainer = trainer_of(make_model)
    rollouts.rollout_func([rollouts.train_dataset[0]["prompt"]] * 4, trainer)
    processor = trainer.processing_class
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    own = processor(text=[text], images=[[Image.new("RGB", (24, 16))]], add_special_tokens=False, return_tensors="pt")

    written = trainer.model.generate(**own, max_new_tokens=3, min_new_tokens=3)

    assert written.shape[1] == own["input_ids"].shape[1] + 3


def test_what_a_group_is_shown_is_computed_once_and_forgotten_with_its_episodes():
    vision = VisionProcessor(make_qwen()[1])
    red, blue = (ImageBlock(png(color), "image/png") for color in ("red", "blue"))
    shown = vision.encode("<|image_pad|>", [red])

    assert vision.encode("<|image_pad|>", [ImageBlock(png("red"), "image/png")]) is shown
    assert vision.encode("<|image_pad|>", [blue]) is not shown
    assert vision.encode("which? <|image_pad|>", [red]) is not shown
    gone = weakref.ref(shown)
    del shown
    assert gone() is None


def test_images_that_a_model_does_not_accept_together_are_refused():
    vision = VisionProcessor(make_qwen()[1])
    shapes = [(1, 3, 3, 8, 8), (1, 5, 3, 8, 8)]  # as LLaVA-NeXT has them: as many tiles as the widest image needs
    pictures = [ImageInputs((), (), (), {"pixel_values": torch.zeros(shape)}) for shape in shapes]

    with pytest.raises(ImagesNotSupportedError, match="ImageQwenProcessor"):
        vision.inputs(torch.zeros(2, 4), pictures)


def test_a_server_that_was_not_started_for_images_is_recognized(
    trainer_of: Callable, rollouts: ORSRollouts, vllm_server: CompletionsServer
):
    trainer = trainer_of(make_qwen)
    without = CompletionsServer(trainer.model)
    with serve_app(without.app) as running:
        in_server_mode(trainer, running.url)
        with pytest.raises(SamplingError, match="--enable-scale-out"):
            rollouts.rollout_func([rollouts.train_dataset[0]["prompt"]] * 4, trainer)


def test_images_that_the_template_leaves_out_are_an_error():
    _, processor = make_qwen()
    blind = processor.chat_template.replace("<|vision_start|><|image_pad|>", "")
    chat = ChatTokenizer(processor.tokenizer, {"chat_template": blind}, vision=VisionProcessor(processor))
    message = Message("user", (TextBlock("which?"), ImageBlock(png("red"), "image/png")))

    with pytest.raises((TemplateError, ValueError), match="image"):
        chat.prompt([message], ToolList())


def test_a_template_that_knows_only_parts_shows_texts_too():
    _, processor = make_qwen()
    loop = "{% for part in m.content %}{{ '<|image_pad|>' if part.type == 'image' else part.text }}{% endfor %}"
    template = "{% for m in messages %}<|im_start|>{{ m.role }} " + loop + "<|im_end|>{% endfor %}"
    template += "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    chat = ChatTokenizer(processor.tokenizer, {"chat_template": template}, vision=VisionProcessor(processor))
    picture = ImageBlock(png("red"), "image/png")
    say = Message("assistant", (TextBlock("red"),))

    prompt = chat.prompt([Message("user", (TextBlock("which?"),))], ToolList())
    shown = chat.between(say, [Message("user", (picture, TextBlock("and now?")))], ToolList())

    assert processor.tokenizer.decode(prompt.ids) == "<|im_start|>user which?<|im_end|><|im_start|>assistant "
    assert "and now?" in processor.tokenizer.decode(shown.ids)
    assert shown.pictures is not None


def test_text_that_the_model_would_take_for_an_image_is_an_error_that_shows_it():
    _, processor = make_qwen()
    chat = ChatTokenizer(processor.tokenizer, vision=VisionProcessor(processor))

    with pytest.raises(ValueError, match=re.escape("'<|image_pad|>' as text") + ".*write <"):
        chat.prompt([Message("user", (TextBlock("write <|image_pad|>"),))], ToolList())


HUGE = base64.b64encode(b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 54, 40, 99999, 99999, 1, 24, *[0] * 6)).decode()


@pytest.mark.parametrize("data", ["%%%", "aGVsbG8=", HUGE])
def test_an_unreadable_image_has_a_clear_error(data: str):
    with pytest.raises(ValueError, match="image/webp"):
        read_image(ImageBlock(data, "image/webp"))
