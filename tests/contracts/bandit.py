"""A bandit: the source plays the system's actions, remembers what they paid, and replays it."""

import torch
from torch import nn

from contracts.support import RowSource, noise
from rhyme.systems.base import Export, StepOutput, System
from rhyme.training import OptimizerConfig, TrainConfig
from rhyme.views.keys import Keys

CONFIG = TrainConfig(steps=6, batch_size=4, optimizer=OptimizerConfig(name="sgd", lr=0.1))


class Replay(RowSource):
    def __init__(self, seed):
        super().__init__(16, CONFIG.batch_size, seed)
        self.contexts, self.pay = noise(5, 16, 6), noise(6, 16, 3)
        self.memory = torch.tensor([[0, 0], [1, 2], [2, 1]])  # rows of (context, action)

    def fill(self, ids):
        keys = Keys.of(self.seed, self.position, ids.numpy())
        rows = self.memory[torch.from_numpy(keys.integers("replay", len(self.memory)))]
        old = {"seen": self.contexts[rows[:, 0]], "action": rows[:, 1]}
        return {"targets": {"now": self.contexts[ids], "paid": self.pay[tuple(rows.T)], **old}}

    def observe(self, output):
        self.memory = torch.cat([self.memory, output.record])

    def state_dict(self):
        return {**super().state_dict(), "memory": self.memory}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.memory = state["memory"].clone()


class Bandit(System):
    single_rank = True  # the actions that it plays come from its own draws

    def __init__(self):
        super().__init__()
        self.value = nn.Linear(6, 3)
        self.register_buffer("played", torch.zeros(3, dtype=torch.int64))

    def training_step(self, batch, context):
        told = self.value(batch.targets["seen"]).gather(1, batch.targets["action"][:, None])
        chance = torch.rand(len(batch), 3, generator=context.generator("explore"))
        self.actions = (self.value(batch.targets["now"]).detach() + chance).argmax(1)
        loss = (told[:, 0] - batch.targets["paid"]).square().mean()
        return StepOutput(loss=loss, record=torch.stack([batch.index, self.actions], 1))

    def after_step(self, applied):
        self.played += torch.bincount(self.actions, minlength=3)

    def exports(self):
        return {"policy": Export(kind="policy", module=self.value)}


SYSTEM, SOURCE, EXPORT = Bandit, Replay, "policy"
MODULE, EXAMPLE = (lambda: nn.Linear(6, 3)), (noise(7, 4, 6),)
