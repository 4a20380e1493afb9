"""The kernels of a GPU, in Triton; imported where a tensor lies on one, never before.

:mod:`.queue` has the passes over a queue, which are the package's own names, and :mod:`.batch`
those within a batch, with the signatures of the portable ones. Each has a ``refusal``, which says
why it does not take some inputs. Block sizes come from a table (:mod:`.blocks`): results repeat.
"""

from __future__ import annotations

from rhyme.kernels.triton.queue import backward_pass, forward_pass, refusal

__all__ = ["backward_pass", "forward_pass", "refusal"]
