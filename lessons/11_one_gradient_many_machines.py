# %% [markdown]
# # 11 One gradient, many machines
#
# **The question: four machines compute a quarter of a batch each. Is their sum the gradient of the batch?**
#
# A batch is cut into shards, and the shards' gradients are added. Nothing in that sum asks where a shard was computed.
# So one process can take shards 0 and 4, another one shards 1 and 5, and so on. MPI, the usual way for processes to
# talk on a cluster, calls such a process a **rank**. We play four ranks in this one process, look at what they would
# send, and add it up in several orders. At the end two real ranks train, if MPI is installed.
#
# Read beside this: `rmaat_np/step.py` (`Share`), `rmaat_np/training/ranks.py`, `rmaat_np/benchmark/ranks.py`.

# %%
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from show import heading, pyplot, show, your_turn

import rmaat_np as rn
from rmaat_np.benchmark.ranks import Link
from rmaat_np.step import Share
from rmaat_np.training.ranks import mpiexec

RANKS = 4
cfg = rn.Config(
    vocab_size=20, num_classes=5, d_model=32, num_heads=4, num_layers=2, d_ff=64, num_memory=4,
    segment_length=16, num_segments=6,
)  # fmt: skip
rng = np.random.default_rng(0)
tokens = rng.integers(1, 20, (32, 96))
tokens[np.arange(96) >= rng.integers(20, 97, (32, 1))] = 0  # rows of 20 to 96 tokens
labels = rng.integers(0, 5, 32)
params = rn.init_params(cfg)

# %% [markdown]
# ## What a rank sends
#
# `loss_and_grads` takes a `Share`: the rank, how many there are, and a function that gets this rank's sum and returns
# that of all ranks. Ours writes down what it gets, and returns it as it is.
#
# > *Predict, then run: the model has about 20,000 parameters. How many numbers does a rank send that computed 8 of the
# > 32 rows: a quarter of 20,000, or all of them?*


# %%
def part_of(rank, dtype="float32"):
    """What one rank would send: loss, right answers and all gradients of its own shards, in one array."""
    sent = []

    def write_down(flat):
        sent.append(flat.copy())
        return flat

    mine = {name: array.astype(dtype) for name, array in params.items()}
    rn.loss_and_grads(mine, cfg, tokens, labels, share=Share(rank, RANKS, write_down))
    return sent[0]


heading("What a rank sends")
parts = np.stack([part_of(rank) for rank in range(RANKS)])
loss, grads, stats = rn.loss_and_grads(params, cfg, tokens, labels)
count = sum(array.size for array in params.values())
print(f"{count:,} parameters; each rank sends {parts.shape[1]:,} numbers, {parts[0].nbytes:,} bytes")
print("parts of the loss:", *(f"{part[0]:.4f}" for part in parts))
print(f"their sum {parts[:, 0].sum():.4f}, the loss of one process {loss:.4f}")
print("right answers:", *(int(part[1]) for part in parts), f"of {len(labels)}")

# %% [markdown]
# All of them: every row has a say in every parameter. The parts add up to the loss of the batch, and not to its
# fourfold: each row is weighted by 1/32, for the *whole* batch has 32 rows, wherever the row is computed. Rows of
# different length take different time. The shards are sorted by length, and rank r takes shards r, r + 4, r + 8 ... So
# every rank gets long rows and short ones.
#
# ## The order decides the last bit
#
# In mathematics the order of a sum is free. Numbers of 24 bits are rounded after every addition.
#
# > *Predict, then run: we add the four parts from the left, from the right, and in pairs. In how many of the 20,000
# > numbers do the three differ: in none, in one of a hundred, in a third? And what if there are two parts?*

# %%
heading("The order decides the last bit")


def left(parts):
    """((0 + 1) + 2) + 3: the order of the ranks."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


orders = {
    "from the right": lambda parts: left(parts[::-1]),
    "in pairs": lambda parts: left(np.stack([left(parts[:2]), left(parts[2:])])) if len(parts) > 2 else left(parts),
}
differing = {}
for some in (2, 3, 4):
    for name, order in orders.items():
        differing[some, name] = np.mean(order(parts[:some]) != left(parts[:some]))
        print(f"{some} parts, {name}: {100 * differing[some, name]:.1f} % of the numbers differ from the left sum")
wide = np.stack([part_of(rank, "float64") for rank in range(RANKS)])
error = {name: np.abs(order(parts) - left(wide)).max() for name, order in ({"from the left": left} | orders).items()}
print("largest error of each order:", ", ".join(f"{name} {value:.1e}" for name, value in error.items()))

figure, axis = pyplot.subplots(figsize=(7, 3.4), layout="constrained")
for name in orders:
    axis.plot([2, 3, 4], [100 * differing[some, name] for some in (2, 3, 4)], "o-", label=name)
axis.set(xlabel="ranks", ylabel="%", title="numbers of a gradient that differ from the sum in rank order")
axis.set_xticks([2, 3, 4])
axis.legend(frameon=False)
show(figure, "11_one_gradient_many_machines_order")

# %% [markdown]
# No order is better than another: their errors are equal. But training goes on from the sum, and a difference in the
# last bit grows. So that a run can be repeated to the last bit, the order must be *fixed*. `Allreduce`, MPI's own sum,
# chooses an order by the number of ranks and the size of the message. Two numbers have one order only, `a + b = b + a`:
# a test with two ranks would see no mistake. The tests of this project use four.
#
# ## A sum that keeps the order, and is fast
#
# All ranks could send all to rank 0, which adds and sends the result back. Then rank 0 moves R - 1 arrays twice, while
# the others wait. Instead, each rank adds one slice of the array for all. Everybody sends slice k to rank k
# (`Alltoall`). Rank k adds what it got in the order of the ranks, and sends the sum to everybody (`Allgather`).

# %%
heading("A sum that keeps the order, and is fast")
nbytes = parts[0].nbytes
sent = None  # your turn: the bytes that one rank sends in both calls together, in terms of nbytes and RANKS
hint = "A slice has nbytes / RANKS bytes. A rank sends one to each of the others, twice; to itself it sends nothing."
sent = your_turn(sent, 2 * (RANKS - 1) * nbytes / RANKS, hint)
slices = np.array_split(parts, RANKS, axis=1)  # slice k of all ranks, where rank k has them after Alltoall
gathered = np.concatenate([left(piece) for piece in slices])
print(f"array {nbytes:,} bytes; each rank sends {sent:,.0f}; rank 0 alone would move {2 * (RANKS - 1) * nbytes:,}")
print(f"equal to the sum in rank order, to the last bit: {np.array_equal(gathered, left(parts))}")

# %% [markdown]
# ## A thousand ranks
#
# Each rank sends 2 (R - 1) messages. A message takes a while to begin (the latency), and then a while for each byte.
# `Link.seconds` is that formula. Let us take a network of 20 µs and 1 GB/s, and a step of one second on one rank.
#
# > *Predict, then run: which limit comes first? The latency, the bytes, or something that is no matter of networks?*

# %%
heading("A thousand ranks")
link, many, rows, work = Link(20e-6, 1e-9), 2 ** np.arange(1, 11), 32, 1.0
cost = np.array([link.seconds(int(ranks), 4_500_000) for ranks in many])
speed = {
    "every rank brings 32 rows of its own": many * work / (work + cost),
    "32 rows in all": work / (work / np.minimum(many, rows) + cost),
}
for name, times in speed.items():
    print(f"{name}: " + ", ".join(f"{ranks} ranks {value:.1f} x" for ranks, value in zip(many, times, strict=True)))

figure, axis = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
axis.plot(many, many, ":", color="0.6", label="as many times as ranks")
for (name, times), mark in zip(speed.items(), "os", strict=True):
    axis.plot(many, times, f"{mark}-", label=name)
axis.set(xscale="log", yscale="log", xlabel="ranks", ylabel="times the speed of one")
axis.set_title("a model: 4.5 MB and one second a step")
axis.legend(frameon=False)
show(figure, "11_one_gradient_many_machines_many")

# %% [markdown]
# The batch comes first. 32 rows keep 32 ranks busy, and the others wait. If the batch grows with the ranks, the network
# takes only a few percent. But a batch of 32,768 rows makes few updates from many rows, and wants another learning
# rate. After that comes the latency, as it grows with the ranks. Two remedies are known, and not built in here. One
# adds within a machine first, and between machines afterwards. One sends what is ready while the rest is computed.
#
# ## Real ranks
#
# `mpiexec -n 2` starts a command twice, and each copy learns which of the two it is. With 32 rows each rank has one
# shard, as each of two threads has in one process. So the parameters must be equal to the last bit.

# %%
heading("Real ranks")
script = Path(rn.__file__).parents[1] / "run_lra.py"
short = ["--task", "recall", "--steps", "3", "--set", "eval_every=3"]
probe = [sys.executable, "-c", "from mpi4py import MPI"]  # in a process of its own: importing begins MPI
ready = shutil.which(mpiexec()) is not None and subprocess.run(probe, capture_output=True).returncode == 0
with tempfile.TemporaryDirectory() as folder:
    one, two = ([*short, "--workers", workers, "--out", f"{folder}/{workers}"] for workers in ("2", "1"))
    jobs = [[sys.executable, script, *one]] + [[mpiexec(), "-n", "2", sys.executable, script, *two]] * ready
    done = [subprocess.run(job, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300) for job in jobs]
    assert all(job.returncode == 0 for job in done), done[-1].stderr
    files = [Path(folder, workers, "last.npz") for workers in ("2", "1")[: len(jobs)]]
    found = [{name: array for name, array in np.load(file).items() if name != "meta"} for file in files]
same = all(np.array_equal(found[0][name], found[-1][name]) for name in found[0])
print(f"two ranks and two threads: equal bits {same}" if ready else "there is no MPI here: pip install mpi4py mpich")

# %% [markdown]
# On a cluster with SLURM the same is a file for `sbatch`. It asks for two machines with four ranks each. It also asks
# for a signal five minutes before its time is over: then the run saves itself and ends. (Nobody has tried it yet.)
#
# ```sh
# #SBATCH --nodes=2 --ntasks-per-node=4 --cpus-per-task=2 --time=12:00:00 --signal=USR1@300
# srun --mpi=pmi2 python run_lra.py --preset lra --workers 2 --out runs/big      # or --resume runs/big
# ```
#
# On two machines of your own, with the same environment in the same place, and a login that asks for no password:
#
# ```sh
# mpiexec -hosts 192.168.0.10,192.168.0.11 -ppn 4 -n 8 python run_lra.py --preset lra --workers 2 --out runs/big
# ```
#
# MPICH's `mpiexec` does not pass on what a closed terminal sends, SIGHUP: start a long run with `nohup`. After a crash,
# the same command with `--resume runs/big` goes on. A program of your own, with `rn.train`, is one process.
#
# ## What can go wrong here
#
# - *"Every rank takes the mean of its rows, and then we take the mean of the means."* With parts of 9, 9, 9 and 5 rows
#   that is another gradient. Divide by the rows of the whole batch, and add.
# - *"It is only the last bit."* One step later it is in every parameter. Fix the order, or give up repeating a run.
# - *"A rank failed, so the job ended."* MPI's other ranks would wait for ever. The command ends them, and says which
#   rank it was and why.

# %%
assert parts.shape == (RANKS, count + 2), "a rank sends loss, right answers, and one number a parameter"
assert np.isclose(left(parts)[0], loss, rtol=1e-6) and left(parts)[1] == round(stats["accuracy"] * len(labels))
assert np.isclose(np.linalg.norm(left(parts)[2:]), np.linalg.norm(left(wide)[2:]), rtol=1e-5)
assert all(share == 0 for (some, _), share in differing.items() if some == 2), "two numbers have one sum"
assert all(share > 0.05 for (some, _), share in differing.items() if some == 4)
assert max(error.values()) < 10 * min(error.values()), "one order is far worse"
assert np.array_equal(gathered, left(parts)), "slices change the order"
assert sent < 2 * nbytes and np.isclose(sent, 2 * nbytes * 3 / 4)
assert max(speed["32 rows in all"]) < 32 < speed["every rank brings 32 rows of its own"][-1]
assert same, "two ranks differ from two threads"
