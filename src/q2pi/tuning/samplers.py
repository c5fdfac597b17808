"""Optuna's samplers and pruners by name."""

from typing import Any

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from q2pi.rng import derive
from q2pi.tuning.plan import Plan

STARTUP_TRIALS = 8
"""Number of trials, including the defaults, before the sampler uses its model; these are random."""
POPULATION = 12
"""Number of trials of a generation of NSGA-II."""


class ReplayedCmaEs(CmaEsSampler):
    """CMA-ES that stores no state: the optimizer is recomputed from all completed generations.

    Optuna's class stores a pickle of the optimizer; q2pi reads no pickles, because loading one executes code.
    """

    def _restore_optimizer(self, completed_trials: list[Any]) -> None:
        self._completed = completed_trials

    def _init_optimizer(self, trans: Any, direction: Any) -> Any:
        optimizer = super()._init_optimizer(trans, direction)
        size = optimizer.population_size
        while len(trials := self._get_solution_trials(self._completed, optimizer.generation)) >= size:
            optimizer.tell([(trans.transform(t.params), -float(t.value or 0)) for t in trials[:size]])
        return optimizer


def make_sampler(plan: Plan, number: int) -> BaseSampler:
    """Return the sampler of trial `number`; its samples depend only on earlier trials and on the seed."""
    seed = derive(plan.base.seed, "sampler", number)
    match plan.sampler:
        case "tpe":
            return TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, constant_liar=True)
        case "cmaes":
            return ReplayedCmaEs(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
        case "random":
            return RandomSampler(seed=seed)
        case "gp":
            return GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False)
        case "nsga2":
            return NSGAIISampler(seed=seed, population_size=POPULATION)


def make_pruner(plan: Plan) -> BasePruner:
    """Return the pruner; its resource is the number of evaluations so far, summed over the seeds of a trial."""
    patience = max(1, plan.evaluations // 3)
    match plan.pruner:
        case "median":
            return MedianPruner(n_startup_trials=5, n_warmup_steps=patience + 1, n_min_trials=3)
        case "hyperband":
            return HyperbandPruner(
                min_resource=patience, max_resource=plan.evaluations * plan.seeds, reduction_factor=3
            )
        case "halving":
            return SuccessiveHalvingPruner(min_resource=patience, reduction_factor=3)
        case "none":
            return NopPruner()
