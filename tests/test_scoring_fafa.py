"""The one scoring function: every path of it against the plain definition, and its threads."""

import multiprocessing
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from fafa import scoring_fafa, threads
from fafa.scoring_fafa import topk_mean_similarity

equal = torch.testing.assert_close
BLOCK = 2**12  # token similarities: 25 blocks of the features below


@pytest.fixture
def two_threads(monkeypatch):
    """torch uses two threads, and those that score start anew."""
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_WORKERS", {})
    monkeypatch.setattr(threads, "num_cores", lambda: 2)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def features():
    generator = torch.Generator().manual_seed(0)
    queries, targets = torch.randn(40, 16, generator=generator), torch.randn(300, 8, 16, generator=generator)
    return normalize(queries, dim=-1), normalize(targets, dim=-1)


@pytest.fixture(scope="module")
def plain(features):
    return torch.einsum("qd,gnd->qgn", *features).topk(3).values.mean(-1)


def score(features) -> torch.Tensor:
    return topk_mean_similarity(*features, 3, BLOCK)


def score_in_a_process(features, connection) -> None:
    torch.set_num_threads(2)
    connection.send(score(features).numpy())


class Scores(torch.utils.data.Dataset):
    """Scores where a DataLoader's worker reads."""

    def __init__(self, features):
        self.features = features

    def __len__(self):
        return 2

    def __getitem__(self, index):
        torch.set_num_threads(2)
        return score(self.features)


def test_score_in_chunks_equals_whole_and_has_gradients():
    """The uneven last chunk included: forward and backward."""
    torch.manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(7, 16), dim=-1)
    targets = torch.nn.functional.normalize(torch.randn(11, 9, 16), dim=-1)
    results = []
    for max_elements in (1, 2 * 7 * 9, 4 * 7 * 9, 10**6):
        q, t = queries.clone().requires_grad_(), targets.clone().requires_grad_()
        scores = topk_mean_similarity(q, t, 3, max_elements)
        (scores * torch.arange(77).view(7, 11)).sum().backward()
        without_graph = topk_mean_similarity(queries, targets, 3, max_elements)
        results.append((scores.detach(), q.grad, t.grad, without_graph))
    plain = torch.einsum("qd,gnd->qgn", queries, targets).topk(3).values.mean(-1)
    for scores, q_grad, t_grad, without_graph in results:
        equal(scores, plain, rtol=0, atol=1e-6)
        equal(without_graph, plain, rtol=0, atol=1e-6)
        equal(q_grad, results[-1][1], rtol=0, atol=1e-4)
        equal(t_grad, results[-1][2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 5, 8, 31, 32, 33])
def test_score_takes_any_number_of_tokens(num_tokens):
    torch.manual_seed(num_tokens)
    queries, targets = torch.randn(3, 8), torch.randn(5, num_tokens, 8)
    for k in range(1, num_tokens + 1):
        plain = torch.einsum("qd,gnd->qgn", queries, targets).topk(k).values.mean(-1)
        equal(topk_mean_similarity(queries, targets, k), plain, rtol=1e-5, atol=1e-5)


def test_score_keeps_both_axes_of_one_query_and_one_target():
    """The released evaluation loses an axis to squeeze()."""
    assert topk_mean_similarity(torch.randn(1, 4), torch.randn(1, 3, 4), 2).shape == (1, 1)
    assert topk_mean_similarity(torch.randn(2, 4), torch.randn(0, 3, 4), 2).shape == (2, 0)
    assert topk_mean_similarity(torch.randn(0, 4), torch.randn(2, 3, 4), 2).shape == (0, 2)


def test_score_is_fp32_of_half_precision_features_and_under_autocast():
    queries, targets = torch.randn(4, 64), torch.randn(6, 8, 64)
    exact = topk_mean_similarity(queries, targets, 2)
    with torch.autocast("cpu", torch.bfloat16):
        equal(topk_mean_similarity(queries, targets, 2), exact)
    half = topk_mean_similarity(queries.bfloat16(), targets.bfloat16(), 2)
    assert half.dtype == torch.float32
    equal(half, topk_mean_similarity(queries.bfloat16().float(), targets.bfloat16().float(), 2))


def test_swapped_scoring_arguments_fail():
    queries, targets = torch.randn(4, 8), torch.randn(5, 3, 8)
    with pytest.raises(ValueError, match=r"swapped.*another model"):
        topk_mean_similarity(targets, queries, 2)
    with pytest.raises(ValueError, match=r"\(4, 6\)"):
        topk_mean_similarity(torch.randn(4, 6), targets, 2)
    with pytest.raises(ValueError, match="num_top_tokens is 4"):
        topk_mean_similarity(queries, targets, 4)


@pytest.mark.parametrize("num_queries", [1, 2, 31, 32, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_threads_give_the_bits_of_one_thread(two_threads, features, num_queries, dtype):
    queries, targets = features[0][:num_queries], features[1].to(dtype)
    in_threads = topk_mean_similarity(queries, targets, 3, BLOCK)
    torch.set_num_threads(1)
    alone = topk_mean_similarity(queries, targets, 3, BLOCK)
    assert torch.equal(in_threads, alone)
    equal(alone, torch.einsum("qd,gnd->qgn", queries, targets.float()).topk(3).values.mean(-1), rtol=0, atol=1e-6)


def test_threads_settings_are_as_they_were_for_the_caller_and_all_other_threads(two_threads, features, monkeypatch):
    """`torch.set_num_threads` in one thread changes what threads get that have not used torch yet."""

    def settings() -> tuple[int, str]:
        return torch.get_num_threads(), torch.__config__.parallel_info()

    inside = []

    def sum_of_largest(*arguments):
        inside.append((threading.current_thread(), torch.get_num_threads()))
        return original(*arguments)

    original = scoring_fafa._sum_of_largest
    monkeypatch.setattr(scoring_fafa, "_sum_of_largest", sum_of_largest)
    with ThreadPoolExecutor(1) as older, ThreadPoolExecutor(1) as newer:
        before = settings()
        assert older.submit(settings).result() == before
        score(features)
        assert settings() == before
        assert older.submit(settings).result() == before
        assert newer.submit(settings).result() == before
    assert len(inside) > 20
    assert {number for _, number in inside} == {1}
    assert threading.current_thread() not in {thread for thread, _ in inside}


def test_no_thread_holds_more_than_a_block_whatever_the_shapes(features):
    """Two gigabytes for one query against 200,000 images in half precision: their copy in fp32 was not counted."""

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in inputs:
                sizes.append(result.untyped_storage().nbytes())
            return result

    for num_queries in (1, 31, 32, 700):
        for dtype in (torch.float32, torch.bfloat16):
            queries, targets = torch.randn(num_queries, 16), features[1].to(dtype)
            inputs, sizes = {tensor.untyped_storage().data_ptr() for tensor in (queries, targets)}, []
            with Largest():
                scores = topk_mean_similarity(queries, targets, 3, BLOCK)
            assert sizes
            assert max(size for size in sizes if size != scores.nbytes) <= 4 * BLOCK, (num_queries, dtype)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_threads_score_in_every_mode(two_threads, features, plain, mode):
    with mode():
        scores = score(features)
        assert scores.is_inference() == (mode is torch.inference_mode)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(score(features), scores)
    equal(scores, plain, rtol=0, atol=1e-6)
    with torch.inference_mode():
        inference = [tensor.clone() for tensor in features]
    assert torch.equal(score(inference), scores)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(score(features), scores)
    finally:
        torch.use_deterministic_algorithms(False)


def test_many_threads_may_score_at_once(two_threads, features):
    expected = score(features)
    with ThreadPoolExecutor(8) as callers:
        assert all(torch.equal(scores, expected) for scores in callers.map(score, [features] * 24))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_process_scores_although_it_has_no_thread_of_its_parent(two_threads, features):
    expected = score(features)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=score_in_a_process, args=(features, sender))
    process.start()
    try:
        assert receiver.poll(60), "the child hangs"
        assert torch.equal(torch.from_numpy(receiver.recv()), expected)
        process.join(60)
        assert process.exitcode == 0
    finally:
        process.kill()
    loader = DataLoader(Scores(features), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60)
    assert all(torch.equal(scores, expected) for scores in loader)


@pytest.mark.skipif(not scoring_fafa._matmul_is_fast(), reason="seen on Intel's processors only")
@pytest.mark.parametrize("num_queries", [1, 5, 40])
def test_bits_of_a_score_do_not_depend_on_what_is_scored_beside_it(num_queries):
    """Equal images had different scores, by a last bit, where one was in a block of fewer than 16."""
    generator = torch.Generator().manual_seed(0)
    queries, targets = torch.randn(num_queries, 64, generator=generator), torch.randn(300, 4, 64, generator=generator)
    scores = topk_mean_similarity(queries, targets, 2)
    for number in (0, 1, 2, 15, 16, 17):
        assert torch.equal(topk_mean_similarity(queries, targets[:number], 2), scores[:, :number])
    blocks = 4 * 20 * num_queries  # of 20 targets, the last of which has 5
    assert torch.equal(topk_mean_similarity(queries, targets[:65], 2, blocks), scores[:, :65])


@pytest.mark.parametrize("num_queries", [1, 3, 40])
@pytest.mark.parametrize("is_fast", [False, True])
def test_scores_of_eight_bit_codes_are_those_of_whole_numbers(two_threads, monkeypatch, num_queries, is_fast):
    """Largest numbers of all signs, which overflow where a processor adds pairs of products in 16 bits."""
    if is_fast and not scoring_fafa._multiplies_bytes("cpu"):
        pytest.skip("the processor does not multiply eight-bit numbers")
    monkeypatch.setattr(scoring_fafa, "_multiplies_bytes", lambda device: is_fast)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randint(-32_512, 32_513, (num_queries, 272), generator=generator, dtype=torch.int16)
    targets = torch.randint(-127, 128, (300, 5, 272), generator=generator, dtype=torch.int8)
    queries[0], targets[7, :3], targets[8, :3] = -32_512, -127, 127
    queries[-1, ::2] = 32_512
    scores = topk_mean_similarity(queries, targets, 3, BLOCK)
    exact = torch.einsum("qd,gnd->qgn", queries.double(), targets.double()).topk(3).values.mean(-1)
    equal(scores.double(), exact, rtol=1e-6, atol=1e-6 * 32_512 * 127 * 272)
    if num_queries > 1:
        assert scores[0, 7] == 32_512 * 127 * 272


def test_codes_times_their_scale_score_as_the_tokens_they_stand_for(features):
    queries, targets = features
    scales = targets.abs().amax(dim=(1, 2)) / 127
    codes = (targets / scales[:, None, None]).round().to(torch.int8)
    stood_for = codes * scales[:, None, None]
    equal(topk_mean_similarity(queries, codes, 3) * scales, topk_mean_similarity(queries, stood_for, 3))


def test_an_error_in_a_thread_is_the_callers(two_threads, features, monkeypatch):
    expected = score(features)
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        raise MemoryError("no memory for a block")

    with monkeypatch.context() as patch:
        patch.setattr(scoring_fafa, "_sum_of_largest", fail)
        with pytest.raises(MemoryError, match="no memory for a block"):
            score(features)
    assert len(calls) <= 2  # nobody went on
    assert torch.equal(score(features), expected)


def test_an_interrupt_ends_all_threads_soon(two_threads, features, monkeypatch):
    expected = score(features)
    calls = []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.1)
        return original(*arguments)

    original = scoring_fafa._sum_of_largest
    with monkeypatch.context() as patch:
        patch.setattr(scoring_fafa, "_sum_of_largest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            score(features)
    assert len(calls) < 10  # of 25
    assert torch.equal(score(features), expected)


@pytest.mark.parametrize("name", ["fafa-threads", "fafa-restoring"])
def test_where_no_thread_can_be_started_the_caller_scores_alone(two_threads, features, monkeypatch, name):
    """A container may bound the number of threads."""
    torch.set_num_threads(1)
    expected = score(features)
    torch.set_num_threads(2)
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.startswith(name):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert torch.equal(score(features), expected)
    assert torch.get_num_threads() == 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_compilers_tracers_and_modes_see_the_whole_work(two_threads, features, plain):
    """They see what happens in the calling thread."""
    with torch.no_grad():
        compiled = torch.compile(score, backend="eager", fullgraph=True)
        equal(compiled(features), plain, rtol=0, atol=1e-6)
        traced = torch.jit.trace(lambda *features: score(features), features, check_trace=False)
        other = features[0].flip(0).contiguous()
        equal(traced(other, features[1]), plain.flip(0), rtol=0, atol=1e-6)
    with FlopCounterMode(display=False) as counter:
        score(features)
    assert counter.get_total_flops() == 2 * 40 * 300 * 8 * 16
