"""The learning curve of a run, by hand, and a small run."""

from q2pi.lab.training import AtStart, EachProgress, Training, train


def test_a_curve_is_the_mean_of_each_part() -> None:
    training = Training()
    training.steps, training.returns = [10, 20, 21, 55], [1.0, 3.0, 10.0, 7.0]
    assert training.curve([20, 40, 50, 60]) == [2.0, 10.0, 10.0, 7.0], "a part without an episode repeats the last one"
    assert training.curve([5, 20]) == [1.0, 2.0], "before the first episode its return stands"
    assert training.last(2) == 8.5


def test_sinks_see_the_agent_of_a_run() -> None:
    started, steps = [], []
    training = train(
        "q_learning",
        "q2pi/LabTable-v0",
        3,
        sinks=[AtStart(started.append), EachProgress(lambda step, agent: steps.append((step, agent)))],
        env_options=("mdp=tempting_chain", "size=4"),
        total_timesteps=200,
        log_frequency=100,
    )
    assert started == [training.agent]
    assert [step for step, _ in steps] == [100, 200]
    assert {id(agent) for _, agent in steps} == {id(training.agent)}
    assert sum(training.lengths) <= 200
