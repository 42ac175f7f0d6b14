"""``ors_task``: a split of an ORS environment as a task of Inspect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import mean, stderr

from ors_gym.client.client import ORSClient
from ors_gym.evaluation.task_plan import PlannedTask, TaskPlan, choose_test_split, plan_tasks
from ors_gym_inspect.play import client_of, play_episode
from ors_gym_inspect.scoring import Reward, episode_return, episode_success

__all__ = ["ors_task"]


@task
def ors_task(
    url: str,
    env_name: str | None = None,
    split: str | None = None,
    *,
    tasks: Sequence[int] | None = None,
    limit: int | None = None,
    sample: int | None = None,
    stratify_by: str | None = None,
    seed: int = 0,
    epochs: int = 1,
    reward: Reward = "sum",
    unrewarded: float = 0.0,
    success_at: float = 1.0,
    cluster_by: str | None = None,
    max_turns: int = 32,
    tool_errors: Literal["observe", "fail"] = "observe",
    parallel_tool_calls: bool | Sequence[str] = False,
    toolset: str | None = None,
    secrets: Sequence[str] | str = (),
) -> Task:
    """A split of an ORS environment, with one sample per task.

    Args:
        url: The ORS server. Its key is read from the environment variable ``ORS_API_KEY``, as Inspect's logs store
            arguments.
        env_name: By default the server's first environment.
        split: By default the first one of type test, else of type validation.
        tasks: Indices of tasks. They, ``limit`` and ``sample`` (drawn with ``seed``, in proportion to the task field
            ``stratify_by``) exclude one another, as in :func:`ors_gym.evaluation.evaluate`; by default all tasks.
        limit: Number of tasks, from the first.
        sample: Number of random tasks.
        stratify_by: See ``tasks``.
        seed: Seed of the sample.
        epochs: Number of times each task is played. A task's scores are averaged before errors are computed.
        reward: How an episode's rewards are reduced to its return.
        unrewarded: The return of an episode without a reward.
        success_at: The smallest return that counts as success.
        cluster_by: A field of the task by which standard errors are clustered.
        max_turns: Maximum messages of the model in one episode. For this and the following options see
            :func:`~ors_gym_inspect.play_episode`.
        tool_errors: See ``max_turns``.
        parallel_tool_calls: See ``max_turns``.
        toolset: See ``max_turns``.
        secrets: Names of environment variables, as a list or separated by commas.

    Raises:
        ValueError: the split, a task, a field or an environment variable does not exist.
        ORSError: the server's environments, splits or tasks cannot be read.
    """
    portal, client = client_of(url)

    async def plan() -> tuple[str, str, TaskPlan]:
        env = env_name or await _first_environment(client)
        chosen = split or choose_test_split(await client.list_splits(env))
        planned = await plan_tasks(
            client,
            env,
            chosen,
            indices=tasks,
            limit=limit,
            sample=sample,
            stratify_by=stratify_by,
            cluster_by=cluster_by,
            seed=seed,
        )
        return env, chosen, planned

    env, chosen, planned = portal.run(plan())
    names = [name.strip() for name in secrets.split(",") if name.strip()] if isinstance(secrets, str) else secrets
    return Task(
        dataset=MemoryDataset([_sample(each) for each in planned.tasks], name=f"{env}:{chosen}", location=client.url),
        solver=play_episode(
            client.url,
            env,
            max_turns=max_turns,
            tool_errors=tool_errors,
            parallel_tool_calls=parallel_tool_calls,
            toolset=toolset,
            secrets=names,
        ),
        scorer=[episode_success(success_at, reward, unrewarded), episode_return(reward, unrewarded)],
        metrics=[mean(), stderr(cluster=cluster_by)] if cluster_by is not None else None,
        epochs=Epochs(epochs, "mean"),
        name=f"ors/{env}",
    )


async def _first_environment(client: ORSClient) -> str:
    names = await client.list_environments()
    if not names:
        raise ValueError(f"the server at {client.url} has no environment")
    return names[0]


def _sample(planned: PlannedTask) -> Sample:
    """The sample of a task. The model's input is the environment's prompt, which requires a session."""
    ref, identity = planned.ref, planned.identity
    reference = {"env_name": ref.env_name, "split": ref.split, "index": ref.index, "task_sha256": identity.sha256}
    return Sample(input=str(ref), id=identity.label, metadata={**identity.fields, **reference})
