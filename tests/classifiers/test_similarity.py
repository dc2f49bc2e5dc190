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


def test_a_pixel_without_a_feature_has_logits_and_gradients_of_zero():
    feature = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    feature[0, :, 0, 1] = 0
    feature.requires_grad_()
    logits = Similarity()(feature, torch.randn(4, 3, dtype=torch.float64))
    logits[..., 1:, :].sum().backward()
    assert (logits[0, :, 0, 1] == 0).all()
    assert feature.grad.isfinite().all()
    assert (feature.grad[0, :, 0, 1] == 0).all()


def test_lengths_that_are_known_change_nothing():
    similarity, feature = Similarity(), torch.randn(2, 3, 4, 5)
    for prototypes in (torch.randn(6, 3), torch.randn(2, 6, 3)):
        known = similarity(feature, prototypes, similarity.lengths(feature))
        assert torch.equal(known, similarity(feature, prototypes))
