"""A pool of worker processes: order kept, a deadline an item, nothing left behind.

Everything that decodes or computes many independent items goes through here: the scan, batch
loading, embedding, and decoding in isolation. Processes are *spawned*, never forked, because a
decoder or a thread pool that was opened before a fork hangs in the child.

What is promised:

* results come in the order of the items, and at most ``workers * prefetch`` items are out at once,
  so the items may be an endless generator;
* an exception raised by the function arrives with its own type and fields;
* an item that passes its deadline, or whose worker dies (killed, out of memory, crashed in a
  codec), becomes a :class:`~rhyme.errors.WorkerError` that names the item; the worker is replaced;
* each worker computes on one thread, so that ``workers`` is the number of busy cores;
* when the pool closes, for whatever reason, its processes end; when the parent is killed outright,
  they notice and end too.

Results travel as bytes through a pipe (pickle protocol 5). Tensors travel as NumPy arrays inside
them, never as shared memory: nothing is left in ``/dev/shm`` when somebody dies half way.

Every worker is a pebble pool of its own, with its own pipe. A pool of several workers shares one
pipe and one lock, and a worker that is killed while it sends a result would block the others.
"""

from __future__ import annotations

from rhyme.workers.pool import Errors, Pool, map_ordered

__all__ = ["Errors", "Pool", "map_ordered"]
