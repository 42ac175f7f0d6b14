"""GRPO on ORS environments with TRL: exact tokens, concurrent episodes, the trainer's own arguments.

:class:`ORSRollouts` gives ``GRPOTrainer`` its dataset, rollout function and rewards.
"""

from ors_gym.extras import packages_of

with packages_of("trl"):
    from ors_gym_trl.batch import RolloutBatch
    from ors_gym_trl.callbacks import ReportCallback, TrajectoryCallback
    from ors_gym_trl.checks import SamplingMismatchError
    from ors_gym_trl.environment import Source
    from ors_gym_trl.rollouts import ORSRollouts
    from ors_gym_trl.sampling.sampler import SampledTurn, Sampler, SamplingError
    from ors_gym_trl.tokens.conversation import TemplateError
    from ors_gym_trl.tokens.images import ImagesNotSupportedError

__all__ = [
    "ImagesNotSupportedError",
    "ORSRollouts",
    "ReportCallback",
    "RolloutBatch",
    "SampledTurn",
    "Sampler",
    "SamplingError",
    "SamplingMismatchError",
    "Source",
    "TemplateError",
    "TrajectoryCallback",
]
