"""Jobs: their order and numbers, whatever the clock does."""

from ctxdeploy.service.jobs import REMOVE, Job, Jobs


def test_the_latest_job_comes_first_though_the_clock_was_put_back() -> None:
    jobs, made = Jobs(10, 1 << 20), []
    for number, clock in enumerate((1e9, 5e8, 2e9)):
        made.append(Job(kind=REMOVE, archive="a", names=(str(number),), created=clock, begun=float(number)))
        jobs.accept(made[-1])
    jobs.end(made[0], 7)
    assert jobs.latest(10) == made[::-1]
    assert jobs.numbers() == {("a", "waiting"): 2, ("a", "done"): 1}
