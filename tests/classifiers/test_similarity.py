from __future__ import annotations

import torch

from seglab.classifiers import Cosine
from seglab.classifiers.similarity import Similarity


def test_cosine_is_tau_times_the_cosine_and_dot_the_plain_product():
    feature, prototypes = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 3)
    expected = torch.cosine_similarity(feature[:, None], prototypes[..., None, None], dim=2)
    torch.testing.assert_close(Similarity("cosine", tau=7)(feature, prototypes), 7 * expected)
    torch.testing.assert_close(
        Similarity("dot")(feature, prototypes), torch.einsum("bchw,bkc->bkhw", feature, prototypes)
    )


def test_one_set_of_prototypes_serves_all_images():
    feature, prototypes = torch.randn(2, 3, 4, 5), torch.randn(6, 3)
    similarity = Similarity()
    torch.testing.assert_close(similarity(feature, prototypes), similarity(feature, prototypes.expand(2, 6, 3)))


def test_scale_of_features_and_prototypes_does_not_matter():
    torch.manual_seed(0)
    feature, classifier = torch.randn(2, 3, 4, 5), Cosine(3, 6).eval()
    logits = classifier(feature).logits
    torch.testing.assert_close(classifier(1e6 * feature).logits, logits)
    torch.testing.assert_close(classifier(1e-6 * feature).logits, logits)
    classifier.weight.data *= 100
    torch.testing.assert_close(classifier(feature).logits, logits)
    assert logits.abs().max() <= 15 * (1 + 1e-6)


def test_a_zero_feature_is_like_no_class():
    assert not Similarity()(torch.zeros(1, 3, 1, 1), torch.randn(1, 6, 3)).any()
