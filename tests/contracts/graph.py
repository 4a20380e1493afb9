"""A graph: nodes told apart under two random prunings of the edges; a batch is a set of nodes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from contracts.support import RowSource, noise
from rhyme.systems.base import Export, StepOutput, System
from rhyme.training import OptimizerConfig, TrainConfig

CONFIG = TrainConfig(steps=6, batch_size=8, optimizer=OptimizerConfig(name="adamw", lr=0.01))
NODES = 24


class Nodes(RowSource):
    def __init__(self, seed):
        super().__init__(NODES, CONFIG.batch_size, seed)
        edges = torch.triu(noise(1, NODES, NODES) > 1.0, 1)
        self.graph = {"nodes": noise(2, NODES, 5), "edges": (edges | edges.T).float()}

    def fill(self, ids):
        return {"targets": self.graph}


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 16), nn.Linear(16, 8)

    def forward(self, nodes, edges):
        walk = F.normalize(edges + torch.eye(len(edges)), p=1, dim=1)
        return walk @ self.second(F.relu(walk @ self.first(nodes)))


class NodeContrast(System):
    single_rank = True  # every batch needs the whole graph

    def __init__(self):
        super().__init__()
        self.encoder = Convolution()

    def training_step(self, batch, context):
        nodes, edges = batch.targets["nodes"], batch.targets["edges"]
        views = []
        for name in ("one", "two"):
            keep = torch.rand(edges.shape, generator=context.generator(name)) > 0.2
            views.append(F.normalize(self.encoder(nodes, edges * keep)[batch.index], dim=1))
        loss = F.cross_entropy(views[0] @ views[1].T / 0.2, torch.arange(len(batch)))
        return StepOutput(loss=loss, embeddings={"node": views[0].detach()})

    def exports(self):
        return {"graph": Export(kind="graph", module=self.encoder)}


SYSTEM, SOURCE, EXPORT, MODULE = NodeContrast, Nodes, "graph", Convolution
EXAMPLE = (noise(2, NODES, 5), torch.eye(NODES))
