import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from mtaclip.alignment import Alignment, explain, explain_with_truth
from mtaclip.predictor import Predictor


def noise(height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_the_best_context_of_every_text_is_chosen(alignment):
    assert alignment.contexts.tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]  # of equal ones the first
    assert alignment.best_similarity.tolist() == pytest.approx(
        np.float32([[0.8, 0.3, 0.2], [0.4, 0.9, 0.1], [0.2, 0.0, 0.7]])
    )


def test_segments_are_the_pixels_of_a_query_and_a_class(alignment):
    found = [(s.query, s.label, s.pixels, s.text, s.context) for s in alignment.segments()]
    assert found == [(0, 0, 16, 0, 1), (1, 1, 15, 1, 0), (2, 1, 1, 2, 0)]
    assert [s.score for s in alignment.segments()] == pytest.approx([0.9, 0.8, 0.2])
    assert [s.similarity for s in alignment.segments()] == pytest.approx([0.8, 0.9, 0.7])
    numbers = alignment.segment_map()
    assert numbers[:, :4].tolist() == [[0] * 4] * 4
    assert numbers[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 2]


def test_context_maps_are_the_strongest_mask_times_similarity(alignment):
    maps = alignment.context_maps(0)
    # context 0: query 0 has 1 * 0.1 at the left; query 2 is opposed, -0.5, which counts as 0
    # context 1: 1 * 0.8 at the left (query 2: 0.5 * 0.2); at the right query 1 with 1 * 0.4
    assert maps.tolist() == pytest.approx(np.float32([[[0.1, 0.0]], [[0.8, 0.4]]]))


def test_where_every_query_is_opposed_nothing_fires(alignment):
    opposed = {"similarity": -alignment.similarity, "masks": np.ones((3, 1, 2), np.float32)}
    # context 0: -0.1, 0 and 0.5; context 1: -0.8, -0.4 and -0.2
    maps = Alignment(**{**vars(alignment), **opposed}).context_maps(0)
    assert maps.tolist() == pytest.approx(np.float32([[[0.5, 0.5]], [[0.0, 0.0]]]))


def test_an_image_is_explained_as_it_is_predicted(make_checkpoint):
    predictor = Predictor.from_checkpoint(make_checkpoint(), device="cpu")
    found = explain(predictor, noise())
    assert np.array_equal(found.labels, predictor(noise()).labels)
    assert found.similarity.shape == (2, 8, 20) and found.texts[0] == "road" and found.texts[-1] == "none"
    assert np.array_equal(found.image, noise())
    cosines = np.einsum("qd,nkd->nqk", found.mask_embeddings, found.text_embeddings)
    assert found.similarity == pytest.approx(cosines, abs=1e-5)
    assert np.linalg.norm(found.mask_embeddings, axis=1) == pytest.approx(np.ones(8), abs=1e-5)
    # at every pixel no other query adds more to the score of the label
    masks = torch.nn.functional.interpolate(
        torch.logit(torch.from_numpy(found.masks))[None], size=(64, 96), mode="bilinear"
    )
    shares = found.probabilities[:, found.labels] * masks[0].sigmoid().numpy()
    own = np.take_along_axis(shares, found.owners[None].astype(np.int64), axis=0)[0]
    assert (own >= shares.max(axis=0) - 1e-5).all()
    assert sum(s.pixels for s in found.segments()) == 64 * 96


def test_a_model_and_its_predictor_agree_and_stay_as_they_are(make_checkpoint):
    predictor = Predictor.from_checkpoint(make_checkpoint(), device="cpu")
    pixels = torch.from_numpy(noise()).permute(2, 0, 1)
    assert np.array_equal(explain(predictor, noise()).similarity, explain(predictor.model, pixels).similarity)
    assert predictor.model.predict(predictor.model.normalise(pixels[None])).similarity is None


def test_queries_are_matched_with_the_true_classes(make_checkpoint):
    predictor = Predictor.from_checkpoint(make_checkpoint(), device="cpu")
    labels = np.full((64, 96), 255, np.uint8)
    labels[:20], labels[40:] = 10, 3
    found, matched = explain_with_truth(predictor, noise(), labels)
    assert sorted(matched[matched < 19].tolist()) == [3, 10]
    assert len(matched) == 8
    # what the model says itself, taken as the truth, is matched with queries that say it
    _, matched = explain_with_truth(predictor, noise(), found.labels)
    assert set(matched[matched < 19].tolist()) == set(found.labels.flatten().tolist())


def test_what_amp_predicts_is_what_is_explained(make_checkpoint):
    predictor = Predictor.from_checkpoint(make_checkpoint(), device="cpu", opts=["SOLVER.AMP.ENABLED", "True"])
    assert np.array_equal(explain(predictor, noise()).labels, predictor(noise()).labels)


def test_the_matching_is_the_cheapest_assignment(make_checkpoint):
    predictor = Predictor.from_checkpoint(make_checkpoint(), device="cpu")
    truth = np.full((16, 24), 255, np.uint8)  # at the size of the masks, so that no point lies between two classes
    truth[:9, :5], truth[3:, 14:], truth[12:, 2:14] = 4, 8, 11
    found, matched = explain_with_truth(predictor, noise(), truth.repeat(4, axis=0).repeat(4, axis=1))
    masks = found.masks.reshape(8, -1).astype(np.float64)
    costs = np.empty((8, 3))
    for column, label in enumerate((4, 8, 11)):
        inside = (truth == label).ravel()
        cross_entropy = -np.log(np.where(inside, masks, 1 - masks)).mean(axis=1)
        dice = 1 - (2 * masks[:, inside].sum(axis=1) + 1) / (masks.sum(axis=1) + inside.sum() + 1)
        costs[:, column] = -2 * found.probabilities[:, label] + 5 * cross_entropy + 5 * dice
    queries, columns = linear_sum_assignment(costs)
    assert matched[queries].tolist() == np.array([4, 8, 11])[columns].tolist()
    assert (matched < 19).sum() == 3


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["TEST.SLIDING_WINDOW.ENABLED", "True"], "TEST.SLIDING_WINDOW.ENABLED False"),
        (["TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED False"),
    ],
)
def test_several_views_of_an_image_are_refused(make_checkpoint, opts, words):
    predictor = Predictor.from_checkpoint(make_checkpoint(), device="cpu", opts=opts)
    with pytest.raises(ValueError, match=words):
        explain(predictor, noise())


def test_a_model_without_texts_is_refused(make_checkpoint):
    predictor = Predictor.from_checkpoint(make_checkpoint("mask2former_tiny"), device="cpu")
    with pytest.raises(ValueError, match=r"no text side \(MODEL\.MTACLIP\.TEXT\.ENABLED"):
        explain(predictor, noise())


def test_a_model_in_training_is_refused(make_checkpoint):
    model = Predictor.from_checkpoint(make_checkpoint(), device="cpu").model.train()
    with pytest.raises(ValueError, match=r"call its eval\(\) first"):
        explain(model, torch.zeros(3, 64, 96, dtype=torch.uint8))


def test_values_that_are_not_finite_are_refused(make_checkpoint):
    predictor = Predictor.from_checkpoint(make_checkpoint(), device="cpu")
    with torch.no_grad():
        predictor.model.decoder.alignment.mask_out.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="nan or infinite"):
        explain(predictor, noise())
