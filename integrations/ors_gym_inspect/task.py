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
    """A split of an ORS environment, one sample a task.

    Args:
        url: the ORS server. Its key is read from the environment variable ``ORS_API_KEY``: Inspect's logs keep
            arguments.
        env_name: by default the server's first environment.
        split: by default the one of type test, else of type validation.
        tasks: by index; ``limit``, ``sample`` (drawn with ``seed``, ``stratify_by`` a field of the task) and the
            default, all tasks, as in :func:`ors_gym.evaluation.evaluate`.
        limit: the first of them.
        sample: as many at random.
        stratify_by: see ``tasks``.
        seed: of the sample.
        epochs: times each task is played. Scores of a task are averaged before errors are computed.
        reward: how an episode's rewards become its return.
        unrewarded: the return of an episode without any reward.
        success_at: the least return of a success.
        cluster_by: a field of the task by which standard errors are clustered.
        max_turns: messages of the model in one episode, as ``tool_errors``, ``parallel_tool_calls``, ``toolset`` and
            ``secrets`` of :func:`~ors_gym_inspect.play_episode`.
        tool_errors: see ``max_turns``.
        parallel_tool_calls: see ``max_turns``.
        toolset: see ``max_turns``.
        secrets: names of environment variables, as a list or with commas.

    Raises:
        ValueError: there is no such split, task, field or environment variable.
        ORSError: the server could not be asked what there is.
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
    """The sample of a task. The model reads the environment's prompt, which only a session has."""
    ref, identity = planned.ref, planned.identity
    place = {"env_name": ref.env_name, "split": ref.split, "index": ref.index, "task_sha256": identity.sha256}
    return Sample(input=str(ref), id=identity.label, metadata={**identity.fields, **place})
