"""Hyperparameter search on Optuna whose trials survive kills and whose winner is judged on fresh seeds.

    STUDY/
        study.toml              what the study is: see plan.py; a call that says otherwise is refused
        journal.log             the storage, unless an SQL URL was given
        trials/0007/seed-2/     ordinary run folders
        trials/0007/error.txt   the traceback of a trial that failed
        final/trial-7/seed-..   the best and the defaults again, on fresh seeds
        report/                 report.html, its pictures, result.json

Runs are executed through `q2pi.execute` alone. This package is the only part that imports Optuna.
"""
