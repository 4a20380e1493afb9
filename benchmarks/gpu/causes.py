"""What is known about expectations that an H100 missed; goes into the row of the miss."""

EXACT = (
    "exact float32 on matrix units takes six products of halves: 171 µs forward and 212 µs "
    "backward, kernels alone; the other side's products run on the plain units"
)
CAUSES = {
    "gpu/queue/soft_neighbour/float32": EXACT,
    "gpu/queue/soft_neighbour/float32/masked": EXACT,
    "gpu/queue/log_sum_exp/float32": EXACT,
    "gpu/queue/soft_neighbour/bfloat16": (
        "the two kernels take 38 and 35 µs alone; the rest are small launches around them "
        "(entropy, normalising). 256 queries are four tiles, each of which reads all keys; 2,048 "
        "queries reach 4.7"
    ),
    "gpu/queue/soft_neighbour/float32/wall": (
        "the host: Triton's launches from Python and the small operations around them; a step of "
        "an encoder hides it, as gpu/step/cycle/resnet50 shows"
    ),
    "gpu/batch/rate": (
        "alone, the sums take 1.5 ms, the gradient of the logits 2.3 ms (it writes 2 GB), the two "
        "library products 1.6 ms at 80 to 90 % of the plain rate; within a program of the kernels, "
        "products, exponentials and stores wait for one another"
    ),
    "gpu/batch/largest/time": "as gpu/batch/rate; the products alone would take .36 s",
    "gpu/nearest/window": (
        "a product for each row of keys that a tile touches is too small for a GPU; all products "
        "at once cost it little"
    ),
    "gpu/step/cycle/resnet18": (
        "the host: at 112 pixels its launches take longer than the GPU's work, as the spread shows"
    ),
    "gpu/step/memory": "both ends wait here, so the host's launches count whole; a run hides them",
    "gpu/step/amp": "the other side computes its convolutions in TF32 already",
    "gpu/pictures/groups": (
        "the count was of a CPU's operations; of the step's 62 ms on this host the launches of "
        "batch norms by turns are an eighth. Not profiled on the GPU"
    ),
    "gpu/pictures/beside": (
        "both threads share the interpreter: of 13 ms a step the views cost, none is left to wait "
        "for, but launches of both take turns"
    ),
    "gpu/pictures/recipe/simclr": (
        "measured beside eleven processes that made worlds. The step took 35 ms of 57; the rest "
        "went to views, whose every index had waited for the step before it, in pageable memory. "
        "It goes through pinned memory since, and both views are made together: not measured on a "
        "GPU yet"
    ),
    "gpu/views/112/batch": "the other side draws once for the batch, ours for each picture",
}
