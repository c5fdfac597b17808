"""Hyperparameter search with Optuna: trials survive killed processes, and the winner is evaluated on held-out seeds.

    STUDY/
        study.toml              the plan of the study, see plan.py; a call with other options is refused
        journal.log             the storage, unless an SQL URL was given
        trials/0007/seed-2/     ordinary run folders
        trials/0007/error.txt   the traceback of a trial that failed
        final/trial-7/seed-..   the best trials and the defaults on held-out seeds, with final_evaluation.json
        report/                 report.html, its pictures, result.json

Runs are trained by `q2pi.runs.execute` alone. Only this package imports Optuna.
"""
