"""A pool of worker processes: order kept, a deadline an item, nothing left behind.

Everything that decodes or computes many independent items goes through here: the scan, batch
loading, embedding, and decoding in isolation. Processes are *spawned*, never forked, because a
decoder or a thread pool that was opened before a fork hangs in the child.

What is promised:

* results come in the order of the items, and at most ``workers * prefetch`` items are out at once,
  so the items may be an endless generator;
* an exception raised by the function arrives with its own type and fields;
* an item that passes its deadline, or whose worker dies (killed, out of memory, crashed in a
  codec), becomes a :class:`~rhyme.errors.WorkerError` that names the item and carries the worker's
  stack; the worker is replaced, up to ``restarts`` times a minute where a limit is set;
* each worker computes on one thread, so that ``workers`` is the number of busy cores;
* when the pool closes, for whatever reason, its processes end; when the parent is killed outright,
  they end too, also those that hang or are stopped.

Large arrays and tensors of results lie in anonymous shared memory (:mod:`rhyme.workers.memory`):
the worker copies them in once, the consumer gets views, and the memory is used again when the last
view has gone. It has a fixed number of regions, needs no ``/dev/shm``, and nothing of it is left
when somebody dies half way. All else travels as bytes through a pipe. The function itself is sent
once, and its large arrays are shared by all workers until one writes to them.

Every worker has a pipe of its own and holds one item, so it is clear which item a death or a hang
belongs to. This is :mod:`multiprocessing` underneath: pools of several processes on one pipe and
one lock, such as those of ``concurrent.futures`` and pebble, leave open which item was to blame,
block when a process is killed while it sends, and have no room for shared memory.
"""

from __future__ import annotations

from rhyme.workers.child import end_with_parent
from rhyme.workers.pool import Errors, Pool, map_ordered

__all__ = ["Errors", "Pool", "end_with_parent", "map_ordered"]
