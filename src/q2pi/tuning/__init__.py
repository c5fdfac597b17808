"""Hyperparameter search with Optuna: trials survive killed processes, and the winner is evaluated on held-out seeds.

    STUDY/
        study.toml              the plan of the study, see plan.py; continuing it with other options is an error
        journal.log             the storage, unless --storage names an SQL database
        trials/0007/seed-2/     ordinary run folders
        trials/0007/error.txt   the traceback of a failed trial
        final/trial-7/seed-..   the best trials and the defaults on held-out seeds, with final_evaluation.json
        report/                 report.html, its figures, result.json

All runs are trained by `q2pi.runs.execute`. Only this package imports Optuna.
"""
