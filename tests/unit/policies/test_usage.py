"""The tokens of a reply, as endpoints say them."""

import pytest

from ors_gym.policies.completion import Completion
from ors_gym.policies.names import ToolNames
from ors_gym.trajectory import Reply


class Plain:
    """Reads text as it is."""

    def parse(self, text: str, **options: object) -> Reply:
        return Reply(text)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 90, "completion_tokens": 7}, (90, None, None, 7)),
        (
            {
                "prompt_tokens": 90,
                "completion_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 64},
                "completion_tokens_details": {"reasoning_tokens": 5},
            },
            (90, 64, 5, 7),
        ),
        ({"prompt_tokens": 90, "completion_tokens": 7, "prompt_cache_hit_tokens": 64}, (90, 64, None, 7)),
        ({"prompt_tokens_details": None, "completion_tokens_details": []}, (None, None, None, None)),
    ],
)
def test_a_reply_has_the_tokens_that_the_endpoint_says(usage, expected):
    completion = Completion()
    completion.feed({"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}], "usage": usage})
    reply = completion.reply(Plain(), ToolNames(()))
    assert (reply.num_prompt_tokens, reply.num_cached_tokens, reply.num_reasoning_tokens, reply.num_tokens) == expected
