"""An executor gets so much at a time, whatever there is to do, and no interruption leaves work."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from perturb_nc.study.in_flight import results
from perturb_nc.theory.clock import Clock


class Counting:
    """Futures that so many workers end together, whenever somebody waits for one of them."""

    def __init__(self, workers):
        self.workers, self.open, self.most, self.submitted = workers, [], 0, 0

    def submit(self, item):
        future = Future()
        self.open.append((future, item))
        self.submitted += 1
        self.most = max(self.most, len(self.open))
        return future

    def work(self):
        batch, self.open = self.open[: self.workers], self.open[self.workers :]
        for future, item in batch:
            if future.set_running_or_notify_cancel():
                future.set_result(2 * item)


def drained(workers, count):
    """What an executor of so many workers was given for so many items, and how it ended."""
    executor = Counting(workers)
    stop = threading.Event()

    def working():
        while not stop.is_set():
            executor.work()
            time.sleep(1e-4)

    thread = threading.Thread(target=working)
    thread.start()
    found = list(results(executor.submit, range(count), Clock()))
    stop.set()
    thread.join()
    assert sorted(found) == [(i, 2 * i) for i in range(count)]
    return executor


@pytest.mark.parametrize("workers", [8, 200])
def test_work_in_flight_is_bounded_and_enough_for_every_worker(workers):
    executor = drained(workers, 4000)
    assert workers <= executor.most <= 1024


def test_the_first_results_do_not_wait_for_all_to_be_submitted():
    submitted = []

    def submit(item):
        submitted.append(item)
        future = Future()
        future.set_result(item)
        return future

    found = results(submit, iter(range(10**9)), Clock())
    assert [next(found) for _ in range(100)] == [(i, i) for i in range(100)]
    assert len(submitted) <= 1200
    found.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_end_in_the_middle_cancels_what_has_not_begun(error):
    executor = Counting(1)

    def reading():
        for _ in results(executor.submit, range(1000), Clock()):
            raise error

    submit = executor.submit
    executor.submit = lambda item: (submit(item), executor.work())[0]
    with pytest.raises(error):
        reading()
    assert executor.submitted <= 64
    executor.open = [future for future, _ in executor.open]
    assert all(future.cancelled() for future in executor.open)


def test_when_the_time_is_up_what_has_begun_comes_to_its_end():
    begun = threading.Event()

    def slow(item):
        begun.set()
        time.sleep(0.1)
        return item

    with ThreadPoolExecutor(1) as pool:
        found = list(results(lambda item: pool.submit(slow, item), range(100), Clock(0.15)))
    assert begun.is_set()
    assert found == [(i, i) for i in range(len(found))]
    assert 1 <= len(found) < 30
