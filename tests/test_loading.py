"""DataLoader workers: nothing in shared memory, and no run that waits for a worker that is dead."""

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
import torch
from test_workers import runs, wait_for
from torch.utils.data import DataLoader, Dataset

from fafa import loading
from fafa.loading import dead_workers_told, worker_options
from fafa.workers import WorkerDiedError

SMALL_SHARED_MEMORY = "mount -t tmpfs -o size=1m tmpfs /dev/shm && "
NO_SHARED_MEMORY = "mount -t tmpfs -o ro tmpfs /dev/shm && "


class LargeTensors(Dataset):
    """Of 2 MB each, far more than a pipe holds, so that whoever sends one is busy with it until it is read."""

    def __len__(self):
        return 200

    def __getitem__(self, number):
        return torch.full((2 << 20,), number, dtype=torch.uint8)


class Unsendable(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, number):
        return lambda: number


def as_list(items):
    return items


def load(num_workers=2, dataset=None, **options):
    return DataLoader(
        dataset or LargeTensors(), batch_size=2, collate_fn=as_list, **options, **worker_options(num_workers)
    )


def in_shared_memory(mount, code):
    """Runs code with a /dev/shm of its own."""
    if subprocess.run(
        ["unshare", "--mount", "bash", "-c", f"{mount} true"], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs the right to mount")
    command = f'{mount} exec "$0" -c "$1"'
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}  # noqa: PTH120
    return subprocess.run(
        ["unshare", "--mount", "bash", "-c", command, sys.executable, code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_batches_of_workers_are_those_of_none(start_method):
    if start_method not in multiprocessing.get_all_start_methods():
        pytest.skip("another system")
    loader = DataLoader(LargeTensors(), batch_size=60, collate_fn=torch.stack, **worker_options(2, start_method))
    batches = list(loader)
    assert [len(batch) for batch in batches] == [60, 60, 60, 20]
    assert torch.equal(torch.cat(batches)[:, 7], torch.arange(200, dtype=torch.uint8))


def test_batches_larger_than_shared_memory_arrive():
    """A container has 64 MB of it: encoding and training hung for ever after 'unable to allocate shared memory'."""
    code = "import test_loading; print(sum(len(batch) for batch in test_loading.load()), 'items')"
    assert in_shared_memory(SMALL_SHARED_MEMORY, code).stdout == "200 items\n"


def test_without_shared_memory_images_are_read_without_workers():
    code = "import test_loading; print(test_loading.load().num_workers, 'workers')"
    run = in_shared_memory(NO_SHARED_MEMORY, code)
    assert run.stdout == "0 workers\n" and "writable /dev/shm" in run.stderr


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("how_many", [1, 2])
def test_a_killed_worker_ends_the_run_even_while_it_sends(persistent, in_thread, how_many):
    """One in a thread of its own, such as the one that pins memory, waited for the rest of a batch for ever."""
    raised = []

    def run():
        try:
            with dead_workers_told():
                for number, _ in enumerate(load(persistent_workers=persistent)):
                    if number == 0:
                        for worker in multiprocessing.active_children()[:how_many]:
                            os.kill(worker.pid, signal.SIGKILL)
        except RuntimeError as error:
            raised.append(error)

    if in_thread:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        with suppress(RuntimeError):  # torch tells the main thread of a dead worker, too, whatever it does just then
            thread.join(60)
        thread.join(60)
        if thread.is_alive():
            faulthandler.dump_traceback()
        assert not thread.is_alive()
    else:
        run()
    assert isinstance(raised[0], WorkerDiedError) and "fewer workers" in str(raised[0])
    for worker in multiprocessing.active_children():
        worker.join(30)
    assert not multiprocessing.active_children()


def test_a_worker_that_ended_well_is_no_dead_one_while_its_end_is_being_noted():
    """The main thread gets the news and notes it a moment later; in between a watcher finds neither."""
    ended = subprocess.Popen(["true"])
    ended.wait()

    class Worker:
        pid, codes = ended.pid, iter([None, None, 0, 0])
        exitcode = property(lambda self: next(self.codes))

    assert loading._ended_well(Worker())


def test_a_batch_that_cannot_be_sent_ends_the_run_instead_of_being_waited_for():
    with pytest.raises(WorkerDiedError), dead_workers_told():
        list(load(dataset=Unsendable()))


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="mat1 and mat2"), dead_workers_told():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_workers_leave_interruptions_to_the_run_they_serve():
    """Ctrl-C in a terminal goes to all of them, and each printed a traceback."""
    iterator = iter(load())
    next(iterator)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    assert len(list(iterator)) == 99


@pytest.mark.parametrize("number", [-1, 100_000])
def test_a_senseless_number_of_workers_is_refused(number):
    with pytest.raises(ValueError, match="worker processes: expected 0"):
        worker_options(number)


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    """With batches in their pipe that nobody reads any more."""
    code = (
        "import multiprocessing, test_loading, time; iterator = iter(test_loading.load()); next(iterator)\n"
        "print(*(worker.pid for worker in multiprocessing.active_children()), flush=True); time.sleep(600)"
    )
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}  # noqa: PTH120
    run = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    workers = [int(number) for number in run.stdout.readline().split()]
    run.kill()
    run.wait()
    assert len(workers) == 2
    assert all(wait_for(lambda pid=pid: not runs(pid), "workers are left behind") for pid in workers)
