from __future__ import annotations

import pytest
import torch

from seglab.losses import PrototypeDistribution, Relation


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize(("student", "teacher"), [((2, 4, 3), (2, 4, 3)), ((2, 4, 3), (4, 3)), ((1, 1, 1), (1, 1))])
def test_relation_counts_what_classes_are_more_alike_than_in_the_oracle(prototypes, student, teacher, similarity):
    output, batch = prototypes(student, teacher)
    p, t = output.semantic_prototypes.detach(), output.oracle_semantic_prototypes.expand(student)

    def relation(v: torch.Tensor, k: int) -> torch.Tensor:
        if similarity == "dot":
            return torch.stack([v[k] @ other for other in v]).softmax(0)
        return torch.stack([15 * torch.cosine_similarity(v[k], other, dim=0) for other in v]).softmax(0)

    rows = []
    for b in range(student[0]):
        for k in range(student[1]):
            excess = (relation(p[b], k) - relation(t[b], k)).clamp(min=0)
            rows.append(excess.sum() - excess[k])
    torch.testing.assert_close(Relation(similarity=similarity)(output, batch), torch.stack(rows).mean())


def test_relation_moves_the_prototype_of_the_row_only(prototypes):
    output, _ = prototypes((1, 3, 2), (1, 3, 2))
    v = output.semantic_prototypes
    row = Relation().relation(v)[0, 1, 2]
    (gradient,) = torch.autograd.grad(row, v)
    assert gradient[0, 1].abs().sum() > 0
    assert gradient[0, [0, 2]].abs().sum() == 0


def test_distribution_is_a_cross_entropy_over_channels(prototypes):
    output, batch = prototypes()
    p, t = output.spatial_prototypes.detach(), output.oracle_spatial_prototypes
    rows = [-(t[b, k].softmax(0) * p[b, k].log_softmax(0)).sum() for b in range(2) for k in range(4)]
    torch.testing.assert_close(PrototypeDistribution()(output, batch), torch.stack(rows).mean())


@pytest.mark.parametrize("term", [Relation(), PrototypeDistribution()])
def test_a_batch_without_a_labelled_pixel_teaches_nothing(prototypes, term):
    output, batch = prototypes()
    batch.label.fill_(255)
    loss = term(output, batch)
    (gradient,) = torch.autograd.grad(loss, output.semantic_prototypes)
    assert loss.item() == 0
    assert not gradient.any()
