"""Tasks of a split, loaded from the reference server."""

from __future__ import annotations

from ors_gym.client.client import ORSClient
from ors_gym.rollouts.tasks import load_tasks
from ors_gym.trajectory import TaskRef


def test_a_split_is_loaded_by_index(counter_server, run):
    async def conversation():
        async with ORSClient(counter_server.url) as client:
            [env_name] = await client.list_environments()
            split = (await client.list_splits(env_name))[0].name
            count = await client.num_tasks(env_name, split)
            everything = await load_tasks(client, env_name, split)
            assert everything == tuple(TaskRef(env_name, split, index) for index in range(count))
            assert await load_tasks(client, env_name, split, limit=1) == everything[:1]
            assert await load_tasks(client, env_name, split, limit=10**9) == everything

    run(conversation())
